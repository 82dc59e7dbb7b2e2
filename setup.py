"""Which folders are packages: conf/ and scripts/ lie at the root, and inside skipstone/ once installed."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages("src"), "skipstone.conf", "skipstone.scripts"],
    package_dir={"": "src", "skipstone.conf": "conf", "skipstone.scripts": "scripts"},
    package_data={
        "skipstone": ["py.typed", "report/*.html", "report/*.css", "report/*.js"],
        "skipstone.conf": ["*.yaml", "**/*.yaml"],
    },
)
