"Hands settings.ini's lists to setuptools; everything else is in pyproject.toml."

from configparser import ConfigParser

from setuptools import setup

ini = ConfigParser()
ini.read("settings.ini", encoding="utf-8")
setup(
    install_requires=ini["package"]["requirements"].split(),
    extras_require={name: needs.split() for name, needs in ini["extras"].items()},
)
