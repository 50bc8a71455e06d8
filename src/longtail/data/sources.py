"""The sources of images; their union is the registry: the name in params.yaml is the name of the file."""

from typing import Annotated

from pydantic import Field

from longtail.data.cifar10 import Cifar10
from longtail.data.cifar100 import Cifar100
from longtail.data.digits import Digits
from longtail.data.fashion_mnist import FashionMnist
from longtail.data.image_folder import ImageFolder
from longtail.data.image_list import ImageList
from longtail.data.mnist import Mnist

Source = Annotated[
    Digits | Mnist | FashionMnist | Cifar10 | Cifar100 | ImageFolder | ImageList, Field(discriminator="name")
]
