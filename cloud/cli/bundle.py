"""``covey bundle``: look at what was signed, and check it."""

from __future__ import annotations

import pathlib

import click
import msgspec

from cloud.carried import export_repository
from cloud.cli.base import Group, Here, json_option, model_option, pass_here, show
from cloud.export.ranked import ListsReport
from cloud.pipeline import build_bundle
from cloud.publish.repository import SignedRepository
from cloud.publish.seal import SealedBundle, load_bundle, verify_bundle
from cloud.store.audit import this_user
from cloud.store.blobs import write_file
from shared.bundle import Manifest
from shared.errors import UsageError


@click.group(cls=Group)
def bundle() -> None:
    """Look at what was signed, and check it."""


variant_option = click.option("--variant", default="standard", help="In which form.")


def _load(here: Here, model: str | None, version: str, variant: str) -> SealedBundle:
    name, _ = here.project.model(model)
    row = here.store.models.resolve(name, version)
    known = ["standard", *row["detail"].get("variants", {})]
    if variant not in known:
        raise UsageError(f"no variant {variant!r:.60}", field="--variant", fix=f"Known are: {', '.join(known)}.")
    return load_bundle(SignedRepository(here.project.repository, here.project.keys), name, row["version"], variant)


@bundle.command("build")
@click.argument("version", default="@latest")
@click.option("--out", type=click.Path(file_okay=False, path_type=pathlib.Path), help="Also write the files here.")
@model_option
@json_option
@pass_here
def build(here: Here, version: str, out: pathlib.Path | None, model: str | None, as_json: bool) -> None:
    """Put a trained VERSION together as a signed bundle; the same version gives the same bundle."""
    name, _ = here.project.model(model)
    row = here.store.models.resolve(name, version)
    sealed = build_bundle(here.project, here.store, name, row["version"], actor=this_user())
    if out is not None:
        for file, data in sealed.files.items():
            write_file(out / file, data)
        write_file(out / "manifest.json", sealed.data)
    said = f"{name}@{row['version']}: {sealed.size_bytes:,} bytes, manifest {sealed.sha256[:12]}"
    show({"model": name, "version": row["version"], "manifest_sha256": sealed.sha256}, [said], as_json=as_json)


@bundle.command("export")
@click.argument("folder", type=click.Path(file_okay=False, path_type=pathlib.Path))
@click.option("--region", "regions", multiple=True, help="Only what this region needs; repeat for more.")
@json_option
@pass_here
def export(here: Here, folder: pathlib.Path, regions: tuple[str, ...], as_json: bool) -> None:
    """Copy what devices need into FOLDER, to be carried to where there is no network."""
    known = here.project.settings.regions.order
    for region in regions:
        if region not in known:
            raise UsageError(f"no region {region!r:.60}", field="--region", fix=f"Known are: {', '.join(known)}.")
    done = export_repository(here.project, folder, regions or known)
    said = f"{done['files']:,} files, {done['bytes']:,} bytes in {folder}; on a device: covey-edge import {folder}"
    show({"folder": str(folder), **done}, [said], as_json=as_json)


@bundle.command("show")
@click.argument("version", default="@latest")
@variant_option
@model_option
@json_option
@pass_here
def show_(here: Here, version: str, variant: str, model: str | None, as_json: bool) -> None:
    """Show the manifest of a VERSION and what its precomputed answers are worth."""
    sealed = _load(here, model, version, variant)
    manifest = sealed.manifest
    detail = here.store.models.get(manifest.model, manifest.version)["detail"]
    report, lists, others = detail.get("precomputed"), detail.get("lists"), list(detail.get("variants", {}))
    lines = [f"{manifest.model}@{manifest.version} ({manifest.variant}): {manifest.task}, {manifest.metric}"]
    lines += _file_lines(here, manifest)
    if others:
        lines.append(f"  also as {', '.join(others)}")
    if report:
        lines.append(f"  {report['n_keys']:,} precomputed answers ({report['source']})")
        whose = "the ONNX model" if manifest.variant == "standard" else "the standard variant's ONNX model"
        lines.append(f"    cover {report['coverage']:.1%} of later rows; {report['agreement']:.1%} agree with {whose}")
        if report["source"] != "model":
            low, high = report["teacher_gain_low"], report["teacher_gain_high"]
            lines.append(
                f"    teacher's gain {report['teacher_gain']:+.4f} {manifest.metric} ({low:+.4f} .. {high:+.4f})"
            )
    if lists:
        lines.append(f"  {msgspec.convert(lists, ListsReport).said}")
    worth = {"precomputed": report, "lists_report": lists}
    show(msgspec.to_builtins(manifest) | worth | {"variants": others}, lines, as_json=as_json)


def _file_lines(here: Here, manifest: Manifest) -> list[str]:
    """Say what each file weighs, and what it weighs for a device that has an earlier version."""
    versions = {
        sha256: row["version"]
        for row in here.store.models.all(manifest.model)
        for sha256 in row["detail"].get("pieces", {}).get("files", {}).values()
    }
    lines = []
    for file in manifest.files:
        lines.append(f"  {file.name:16} {file.length:>10,} bytes  {file.sha256[:12]}")
        for ref in file.deltas:
            source = f"from {versions.get(ref.source, ref.source[:12])}" if ref.source else "whole"
            lines.append(f"    {ref.method:14} {ref.length:>10,} bytes  {source}")
    return lines


@bundle.command("verify")
@click.argument("version", default="@latest")
@variant_option
@model_option
@json_option
@pass_here
def verify(here: Here, version: str, variant: str, model: str | None, as_json: bool) -> None:
    """Check every file of a VERSION against what was signed."""
    sealed = _load(here, model, version, variant)
    checked = verify_bundle(sealed)
    manifest = sealed.manifest
    lines = [f"{manifest.model}@{manifest.version} is whole", *(f"  {line}" for line in checked)]
    show({"ok": True, "model": manifest.model, "version": manifest.version, "checked": checked}, lines, as_json=as_json)
