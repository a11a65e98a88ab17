"""The things of the emoji world: what people call them and which images show them.

A slug is the name of an image in iconify's emoji sets, which most of them share; a concept with
several slugs has several images (a dog, a dog's face). Things whose images differ much between
styles (tools, clothes, containers) are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CONCEPTS", "INDEX", "Concept", "article"]


@dataclass(frozen=True)
class Concept:
    """A thing that the world shows.

    Attributes:
        name: its name in singular, lower case; unique.
        synonyms: other names of it, none of which names another concept.
        slugs: names of its images, the plainest first; an image's place here is its variant.
    """

    name: str
    synonyms: tuple[str, ...]
    slugs: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The name and its synonyms."""
        return (self.name, *self.synonyms)


def article(phrase: str) -> str:
    """Return "a phrase" or "an phrase", as it is said."""
    return f"{'an' if phrase.startswith(('a', 'e', 'i', 'o', 'um')) else 'a'} {phrase}"


# name and synonyms, parted by "/" | slugs, where they are not the name with hyphens
_TABLE = """
dog/puppy | dog-face dog
cat/kitten | cat-face cat
horse/pony | horse-face horse
cow | cow-face cow
pig/piglet | pig-face pig
rabbit/bunny | rabbit-face rabbit
mouse | mouse-face mouse
fox
bear
panda/panda bear
koala/koala bear
tiger | tiger-face tiger
lion
monkey | monkey-face monkey
gorilla
elephant
rhinoceros/rhino
camel | two-hump-camel camel
giraffe
zebra
sheep/ewe | ewe
wolf
bat
squirrel/chipmunk | chipmunk
hedgehog
chicken/hen
chick/baby chick | baby-chick front-facing-baby-chick
penguin
eagle
duck
owl
flamingo
parrot
peacock
swan
frog
crocodile/alligator
turtle/tortoise
snake
dragon | dragon-face dragon
dinosaur/t-rex | t-rex sauropod
whale | spouting-whale whale
dolphin
fish
pufferfish/blowfish | blowfish
shark
octopus
crab
lobster
snail
butterfly
ant
bee/honeybee | honeybee
ladybug/ladybird | lady-beetle
spider
scorpion
unicorn
rose
tulip
sunflower
cactus
palm tree/palm | palm-tree
pine tree/evergreen tree | evergreen-tree
christmas tree | christmas-tree
tree | deciduous-tree
mushroom
clover/four leaf clover | four-leaf-clover
maple leaf | maple-leaf
apple | red-apple green-apple
pear
peach
lemon
banana
watermelon
grapes
strawberry
cherries/cherry | cherries
pineapple
kiwi/kiwi fruit | kiwi-fruit
tomato
eggplant/aubergine | eggplant
avocado
carrot
corn/corn cob | ear-of-corn
chili pepper/hot pepper | hot-pepper
broccoli
bread
croissant
pretzel
cheese | cheese-wedge
hamburger/burger | hamburger
pizza
hot dog/hotdog | hot-dog
fries/french fries | french-fries
popcorn
sushi
ice cream/ice cream cone | ice-cream soft-ice-cream
donut/doughnut | doughnut
cake/birthday cake | birthday-cake shortcake
beer/mug of beer | beer-mug
coffee/cup of coffee | hot-beverage
car/automobile | automobile oncoming-automobile
taxi/cab | taxi oncoming-taxi
bus | bus oncoming-bus
ambulance
fire truck/fire engine | fire-engine
truck/lorry | delivery-truck articulated-lorry
tractor
bicycle/bike | bicycle
motorcycle/motorbike | motorcycle
train/locomotive | locomotive train
airplane/plane/aeroplane | airplane
helicopter
rocket/spaceship | rocket
sailboat/sailing boat | sailboat
ship | ship
skateboard
guitar
violin
piano | musical-keyboard
trumpet
saxophone
drum
soccer ball | soccer-ball
basketball
baseball
american football
volleyball
trophy | trophy
balloon
gift/present | wrapped-gift
teddy bear/teddy | teddy-bear
kite
crown
umbrella | umbrella-with-rain-drops umbrella
light bulb | light-bulb
robot
ghost
alien
skull
pumpkin/jack-o-lantern | jack-o-lantern
snowman | snowman-without-snow snowman
castle | castle
house/home | house
tent
ferris wheel | ferris-wheel
volcano
fire/flame | fire
star | star
heart | red-heart
sun | sun-with-face sun
moon/crescent moon | crescent-moon
rainbow
snowflake
lightning/lightning bolt | high-voltage
earth/globe | globe-showing-europe-africa globe-showing-americas
anchor
bomb
magnet
scissors
bell
dice/die | game-die
puzzle/puzzle piece | puzzle-piece
target/bullseye | bullseye
traffic light | vertical-traffic-light
"""


def _read(line: str) -> Concept:
    names, _, slugs = (part.strip() for part in line.partition("|"))
    name, *synonyms = names.split("/")
    return Concept(name, tuple(synonyms), tuple(slugs.split()) or (name.replace(" ", "-"),))


CONCEPTS: tuple[Concept, ...] = tuple(_read(line) for line in _TABLE.strip().splitlines())
# The place of a concept's name in CONCEPTS.
INDEX: dict[str, int] = {concept.name: index for index, concept in enumerate(CONCEPTS)}
