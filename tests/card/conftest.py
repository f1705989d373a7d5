from rivulet.tests.card.faked import card as card
from rivulet.tests.card.faked import triton_card as triton_card
