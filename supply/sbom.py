"""A bill of materials beside the archives of a build: ``python -m supply.sbom dist``.

CycloneDX as JSON: every dependency of ``rerank-plugins[all]`` as this environment has it, with
licence and package URL, who needs whom, the embedded model and data, and the digests of the wheel
and the sdist.
"""

from __future__ import annotations

import hashlib
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Final

from cyclonedx.contrib.hash.factories import HashTypeFactory
from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from supply.closure import PROJECT, closure
from supply.licences import licence

ROOT: Final = Path(__file__).parents[1]
_SHIPPED: Final = {
    "rerank_plugins/models/mini/model.safetensors": (
        ComponentType.MACHINE_LEARNING_MODEL,
        "mini",
        "Apache-2.0",
    ),
    "rerank_plugins/data/squad-dev/corpus.jsonl.gz": (
        ComponentType.DATA,
        "squad-dev",
        "CC-BY-SA-4.0",
    ),
}
"""What the package carries that is no code."""


def bill(archives: list[Path]) -> Bom:
    """Return the bill of materials of a build."""
    licences = LicenseFactory()
    found = closure()
    components = {
        name: Component(
            name=name,
            version=one.found.version,
            type=ComponentType.LIBRARY,
            bom_ref=f"{name}=={one.found.version}",
            purl=PackageURL("pypi", name=name, version=one.found.version),
            licenses=[licences.make_from_string(licence(name, one.found))],
        )
        for name, one in found.items()
    }
    root = components[PROJECT]
    root.external_references.update(
        ExternalReference(
            type=ExternalReferenceType.DISTRIBUTION,
            url=XsUri(one.name),
            hashes=[_digest(one)],
        )
        for one in archives
    )
    shipped = [
        Component(
            name=name,
            version=version(PROJECT),
            type=kind,
            bom_ref=path,
            hashes=[_digest(ROOT / path)],
            licenses=[licences.make_from_string(said)],
        )
        for path, (kind, name, said) in _SHIPPED.items()
    ]
    bom = Bom()
    bom.metadata.component = root
    bom.components.update(one for one in components.values() if one is not root)
    bom.components.update(shipped)
    for name, one in components.items():
        needs = [components[other] for other in sorted(found[name].needs) if other != name]
        bom.register_dependency(one, [*needs, *shipped] if one is root else needs)
    return bom


def _digest(file: Path) -> HashType:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return HashTypeFactory().from_composite_str(f"sha256:{digest}")


def main(folder: Path) -> Path:
    """Write the bill of the archives in a folder beside them, and return it."""
    number = version(PROJECT)
    name = f"{PROJECT.replace('-', '_')}-{number}"
    archives = [folder / f"{name}-py3-none-any.whl", folder / f"{name}.tar.gz"]
    file = folder / f"{name}.cdx.json"
    written = JsonV1Dot6(bill(archives)).output_as_string(indent=2)
    file.write_text(written + "\n", encoding="utf-8")
    return file


if __name__ == "__main__":
    main(Path(sys.argv[1]))
