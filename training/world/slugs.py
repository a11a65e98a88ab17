"""Names of images in the two sets that do not share Unicode's, by the slug that others use."""

from __future__ import annotations

__all__ = ["FXEMOJI", "STREAMLINE"]


def _pairs(table: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in table.split())


FXEMOJI = _pairs("""
dog-face=dog dog=dogside cat-face=cat cat=catside horse-face=horseface cow-face=cowface pig-face=pig
pig=pigside rabbit-face=bunny rabbit=bunnyside mouse-face=mouse mouse=mouseside panda=pandaface
tiger-face=tiger tiger=tigerside monkey-face=monkeyface ewe=sheep wolf=wolfface
baby-chick=babychick front-facing-baby-chick=frontfacingchick dragon-face=dragonhead
dragon=dragonside spouting-whale=spurtingwhale lady-beetle=ladybeetle palm-tree=palmtree
christmas-tree=christmastree deciduous-tree=deciduoustree four-leaf-clover=fourleafclover
maple-leaf=mapleleaf red-apple=redapple green-apple=greenapple eggplant=aubergine
ear-of-corn=earofmaize hot-pepper=chilipepper pizza=sliceofpizza french-fries=frenchfries
ice-cream=icecream soft-ice-cream=softicecream birthday-cake=birthdaycake beer-mug=beermug
hot-beverage=hotbeverage oncoming-automobile=oncomingautomobile oncoming-taxi=oncomingtaxi
oncoming-bus=oncomingbus fire-engine=fireengine delivery-truck=deliverytruck
articulated-lorry=articulatedlorry locomotive=steamlocomotive musical-keyboard=musicalkeyboard
soccer-ball=soccerball american-football=americanfootball wrapped-gift=present gem-stone=gem
umbrella-with-rain-drops=umbrellawithraindrops light-bulb=lightbulb jack-o-lantern=jackolantern
snowman-without-snow=snowmanwithoutsnow castle=europeancastle house=housebuilding
ferris-wheel=ferriswheel red-heart=redheart sun-with-face=sunwithface sun=sunrays
crescent-moon=crescentmoon high-voltage=bolt globe-showing-europe-africa=europeafricaglobe
globe-showing-americas=americasglobe scissors=blackscissors bullseye=directhit
vertical-traffic-light=verticaltrafficlight chipmunk=chipmunk star=whitemediumstar
camel=dromedarycamel two-hump-camel=bactriancamel
""")

STREAMLINE = _pairs("""
two-hump-camel=camel fox=fox-face-1 bear=bear-face panda=panda-face lion=lion-face wolf=wolf-face
penguin=penguin-1 frog=frog-face unicorn=unicorn-face ewe=ewe-1 cactus=cactus-1
sunflower=sunflower-1 watermelon=watermelon-1 strawberry=strawberry-1 hamburger=hamburger-1
pizza=pizza-1 doughnut=doughnut-1 birthday-cake=birthday-cake-1 shortcake=shortcake-1
hot-beverage=hot-beverage-1 wrapped-gift=wrapped-gift-1 robot=robot-face-1 red-heart=heart-suit
soft-ice-cream=soft-ice-cream-1 sun=sun-with-face snowman-without-snow=snowman
globe-showing-europe-africa=globe-showing-europe-africa game-die=game-dice bullseye=direct-hit
blowfish=blowfish green-apple=apple whale=spouting-whale
vertical-traffic-light=vertical-traffic-light
""")
