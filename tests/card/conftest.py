from rivulet.tests.card.faked import card as card
