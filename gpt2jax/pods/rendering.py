"""Files for people and machines: YAML with scripts as readable blocks."""

import yaml


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, so that a script in a manifest can be read."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '|' if '\n' in text else None
    return dumper.represent_scalar('tag:yaml.org,2002:str', text, style=style)


_Dumper.add_representer(str, _represent_text)


def to_yaml(tree: dict) -> str:
    """A tree of plain values as YAML, keys in their order. Values are quoted by the library where they need it."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, width=1000, allow_unicode=True)
