"""English words by what they are good for in a question about a picture; lower case."""

_FUNCTION = """
a an the this that these those some any each every all both no another its his her their my your our it he she they them
him there here who whom whose which what when where why how i you we is are was were be been being am do does did has
have had can could will would shall should may might must of at from to with by for about into in on and or but if than
as not yes so too very many much more most less few please
"""
_GENERIC = """
image images picture pictures photo photos photograph scene figure color colors colour colours size sizes shape shapes
kind kinds type types sort number numbers name names object objects thing things item items question present visible
shown seen exist exists contain contains appear appears describe show shows tell answer correct following true false
"""
_RELATIONS = """
left right above below under over behind front between beside near next inside outside top bottom around against along
across through beneath underneath upper lower
"""
_VERBS = """
hold holds wear wears ride rides sit sits stand stands eat eats drink drinks play plays walk walks run runs look looks
carry carries drive drives fly flies read reads write writes sleep sleeps use uses jump jumps lie lies lean leans pull
pulls push pushes touch touches face faces watch watches throw throws catch catches hit hits kick kicks cut cuts hang
hangs swim swims ski skis surf surfs sell sells cook cooks talk talks smile smiles
"""
_NOT_VERBS = """
building ceiling clothing painting railing lightning evening morning string spring wedding awning during something
anything nothing everything
"""

FUNCTION = frozenset(_FUNCTION.split())
"""Words without a content of their own."""

GENERIC = frozenset(_GENERIC.split())
"""Words about any picture, or for a property that is asked for: nothing in the picture looks like them."""

RELATIONS = frozenset(_RELATIONS.split())
"""Where things are to each other."""

VERBS = frozenset(_VERBS.split())
"""What things do, besides words in -ing."""

NOT_VERBS = frozenset(_NOT_VERBS.split())
"""Words in -ing that name things."""
