"""Looks at keys, certificates, and who may read the files that hold secrets."""

import stat
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509

from reward_adapters import adapter_kinds, load_adapter
from reward_server.clock import Clock
from reward_server.config import Settings, known_keys
from reward_server.config.accounts import secret_keys
from reward_server.config.sources import Sources
from reward_server.doctor.findings import Report
from reward_server.doctor.store import Seen
from reward_server.sealing import SealError

SOON = timedelta(days=30)
"""What ends sooner should be known …"""
VERY_SOON = timedelta(days=7)
"""… and what ends this soon is a problem already."""


def look_at_keys(settings: Settings, seen: Seen, report: Report, *, clock: Clock) -> None:
    """Whether the master keys open what is stored, and which client keys end."""
    _look_at_data_keys(settings, seen, report)
    _look_at_client_keys(settings, report, clock.now())


def _look_at_data_keys(settings: Settings, seen: Seen, report: Report) -> None:
    area, master = "master key", settings.master_keys
    if seen.keys is None:
        report.hint(area, "whether it opens the stored keys couldn't be seen", "mend what is said about the store")
        return
    newest = {key.client_id: key for key in seen.keys}
    closed = 0
    for key in seen.keys:
        try:
            master.unwrap(key)
        except SealError as error:
            closed += 1
            put_back = "put that master key back, from the copy that you keep apart, as another line of the file"
            if newest[key.client_id] is key:
                report.problem(area, f"{error}: no server starts", put_back)
            else:
                report.problem(area, f"{error}: cards under it can't be read", put_back)
    if not closed:
        report.ok(
            area, f"opens all {len(seen.keys)} stored data keys" if seen.keys else "nothing is sealed under it yet"
        )
    former = sum(key.master_key_id != master.current for key in seen.keys)
    if former and former > closed:
        what = f"{former} of {len(seen.keys)} data keys are wrapped by a former master key"
        report.hint(
            area, what, "finish with `rewardctl keys rotate --only-wrap`; until then the former key has to stay"
        )


def _look_at_client_keys(settings: Settings, report: Report, now: datetime) -> None:
    if settings.uses_dev_keys:
        # The warnings have said so.
        return
    area = "clients"
    for client in settings.clients:
        ends = {hash_: datetime.fromtimestamp(end / 1000, UTC) for hash_, end in client.key_ends.items()}
        over = [end for end in ends.values() if end <= now]
        left = len(client.key_hashes) - len(over)
        if over and not left and not client.certificate_names and not settings.jwt.is_set:
            what = f"{client.client_id}: every key has ended, the last on {max(over):%Y-%m-%d}"
            report.problem(area, what, "make another with `reward-server new-key` and add its hash")
            continue
        if over:
            report.hint(
                area, f"{client.client_id}: {len(over)} key(s) have ended", "take them out of the configuration"
            )
        lasting = [hash_ for hash_ in client.key_hashes if hash_ not in ends]
        coming = [end for end in ends.values() if end > now]
        if coming and not lasting and max(coming) - now < SOON:
            what = f"{client.client_id}: the last key ends on {max(coming):%Y-%m-%d %H:%M} UTC"
            mend = "make the next one with `reward-server new-key`, and have it used before"
            if max(coming) - now < VERY_SOON:
                report.problem(area, what, mend)
            else:
                report.hint(area, what, mend)
        else:
            report.ok(area, f"{client.client_id}: can show itself")


def look_at_files(settings: Settings, environ: Mapping[str, str], report: Report, *, clock: Clock) -> None:
    """Certificates' dates (that key and certificate match was checked with the configuration), and rights of files."""
    grpc, now = settings.grpc, clock.now()
    if grpc.tls_certificate_file is not None:
        _look_at_chain("TLS", grpc.tls_certificate_file, report, now)
    if grpc.tls_client_ca_file is not None:
        _look_at_chain("clients' authority", grpc.tls_client_ca_file, report, now)
    private = [grpc.tls_key_file] if grpc.tls_key_file is not None else []
    secrets, config_holds_secrets = _secret_files(settings, environ)
    wide = [path for path in (*private, *secrets) if _mode(path) & 0o007]
    for path in dict.fromkeys(wide):
        report.problem("files", f"{path.absolute()} can be read by everybody", f"chmod o= {path.absolute()}")
    if config_holds_secrets and settings.file is not None and _mode(settings.file) & 0o007:
        mend = f"chmod o= {settings.file.absolute()}, or move the secrets into files of their own (`…_file`)"
        report.problem("files", f"{settings.file.absolute()} holds secrets and can be read by everybody", mend)
        wide.append(settings.file)
    if not wide:
        report.ok("files", "nobody else reads what is secret")


def _look_at_chain(area: str, file: Path, report: Report, now: datetime) -> None:
    try:
        chain = x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError) as error:
        # It was fine a moment ago, when the configuration was read.
        report.problem(area, f"{file.absolute()} can't be read any more ({type(error).__name__})", "run this again")
        return
    for certificate in chain:
        end, name = certificate.not_valid_after_utc, certificate.subject.rfc4514_string()
        what, mend = (
            f"the certificate of {name} in {file.absolute()}",
            "put a renewed one in its place, no restart needed",
        )
        if certificate.not_valid_before_utc > now:
            begin = certificate.not_valid_before_utc
            report.problem(
                area, f"{what} isn't valid before {begin:%Y-%m-%d %H:%M} UTC", "is this machine's clock right?"
            )
        elif end <= now:
            report.problem(area, f"{what} ended on {end:%Y-%m-%d %H:%M} UTC", mend)
        elif end - now < SOON:
            say = report.problem if end - now < VERY_SOON else report.hint
            say(area, f"{what} ends on {end:%Y-%m-%d %H:%M} UTC", mend)
        else:
            report.ok(area, f"{what} is valid until {end:%Y-%m-%d}")


def _secret_files(settings: Settings, environ: Mapping[str, str]) -> tuple[list[Path], bool]:
    """The files that hold suppliers' secrets, and whether the configuration file itself holds some."""
    sources = Sources(settings.file, environ, known_keys())
    tables: dict[str, Any] = sources.values.get("suppliers", {})
    names = {name for kind in adapter_kinds() for name in secret_keys(load_adapter(kind))}
    files = [Path(str(value)) for _, key, value in _entries(tables) if key in {f"{name}_file" for name in names}]
    inside = any(
        key in names and not sources.from_environment(("suppliers", account, key))
        for account, key, _ in _entries(tables)
    )
    return files, inside and settings.file is not None


def _entries(tables: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    for account, table in tables.items():
        items: Iterable[tuple[str, Any]] = table.items() if isinstance(table, dict) else ()
        for key, value in items:
            yield account, key, value


def _mode(path: Path) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0
