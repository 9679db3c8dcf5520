"""The words by which :mod:`srum_plugins.phrases` finds the things that a text names."""

from __future__ import annotations


def _listed(text: str) -> frozenset[str]:
    return frozenset(text.split())


DETERMINERS = _listed("a an the this these those my your his her its our their another such")
QUANTITIES = _listed(
    "one two three four five six seven eight nine ten eleven twelve dozen dozens hundred hundreds thousand thousands "
    "some many several few various multiple numerous all both each every any no more most less other others"
)
CONJUNCTIONS = _listed("and or nor & plus")
"""What is said of a thing by a verb of being goes on after these."""
LINKS = _listed(
    "but yet so as than while when where if because although though which that who whose whom what there here then "
    "about above across after against along alongside amid among amongst around at atop away before behind below "
    "beneath beside besides between beyond by down during for from in inside into like near nearby next of off on "
    "onto opposite out outside over past per through throughout to together toward towards under underneath up upon "
    "via with within without hidden made not too also i you he she it we they me him them us himself herself itself "
    "themselves someone something everything nothing"
)
"""Prepositions, pronouns, and what else stands between things."""
BEING = _listed("is are was were be been being am isn't aren't wasn't weren't")
VERBS = _listed(
    "has have had having does do did could will would should may might must sit sits sat stands stood lies lay rest "
    "rests hangs hung leans floats flies flew runs ran walks jumps swims swam sleeps slept shines shone casts cast "
    "rises falls fell grows grew holds held holding wears wore wearing carries carrying rides rode riding drives "
    "drove driving eats ate eating drinks drank drinking plays playing reads reading writes wrote uses using makes "
    "making takes took taking gives gave giving gets got getting keep keeps kept tells told adds looks watches "
    "watching sees shows showing chases chasing catches caught catching throws threw throwing pulls pulling pushes "
    "pushing covers covering fills filling faces facing meets met leads led lit blows blew sings sang dances cooks "
    "cooking feeds fed feeding kicks kicking surrounds surrounding contains containing features featuring"
)
"""Those that a verb's ending does not give away, or that stand before a thing without an article."""
PLACES = _listed(
    "top bottom left right side sides front back edge middle center centre corner background foreground end upper "
    "lower rear distance"
)
"""Places of an image or of another thing: a phrase of nothing else is none."""
MEASURES = _listed(
    "photo photograph picture image illustration view scene shot close-up closeup group pair bunch couple set number "
    "lot lots variety collection row piece kind type"
)
"""No things themselves where ``of`` follows."""
THINGS_IN_ING = _listed(
    "building painting ring earring ceiling king wing string swing clothing pudding sling spring drawing wedding "
    "evening morning railing icing sibling duckling dumpling crossing lightning lining frosting seedling sapling "
    "awning being thing bling rigging stuffing topping wrapping kindling gosling offspring opening setting"
)
THINGS_IN_ED = _listed("bed shed sled seed weed reed breed speed steed moped seaweed tumbleweed flatbed riverbed red")
THINGS_IN_LY = _listed("family lily jelly belly holly trolly assembly ally bully doily fly")
PLURALS = {
    "men": "man",
    "women": "woman",
    "children": "child",
    "people": "person",
    "mice": "mouse",
    "geese": "goose",
    "feet": "foot",
    "teeth": "tooth",
    "leaves": "leaf",
    "knives": "knife",
    "wolves": "wolf",
    "shelves": "shelf",
    "bookshelves": "bookshelf",
    "loaves": "loaf",
    "scarves": "scarf",
    "calves": "calf",
    "buses": "bus",
    "lenses": "lens",
    "shoes": "shoe",
    "horseshoes": "horseshoe",
    "canoes": "canoe",
    "toes": "toe",
    "cookies": "cookie",
    "movies": "movie",
    "selfies": "selfie",
    "zombies": "zombie",
    "brownies": "brownie",
    "smoothies": "smoothie",
    "hoodies": "hoodie",
    "beanies": "beanie",
    "magpies": "magpie",
    "pies": "pie",
    "ties": "tie",
    "mustaches": "mustache",
    "moustaches": "moustache",
}
ALWAYS_IN_S = _listed(
    "glasses sunglasses eyeglasses goggles binoculars headphones earphones scissors pliers tongs tweezers pants "
    "trousers jeans shorts tights leggings pajamas pyjamas overalls clothes stairs series species headquarters gas "
    "canvas atlas lens christmas chess news always perhaps"
)
"""No plurals, or plurals of which nobody counts the parts."""
