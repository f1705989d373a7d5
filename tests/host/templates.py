"""All templates by their names, which ComfyUI's dialog shows as titles."""

from rivulet.tests.host.template_toys import TOYS
from rivulet.tests.host.template_weights import WEIGHTS

TEMPLATES = dict(sorted({**TOYS, **WEIGHTS}.items()))
