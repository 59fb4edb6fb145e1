"""The contributors of a run, in a process of their own: they encode, mask, seal and sign, and never see a seat.

What goes through the pipe for each contributor: the columns that hear of it, its header as JSON, its boxes, its vector.
An empty message ends a leaf group; the clear sum of that group follows. The last message says what it all cost.
"""

import base64
import json
from collections.abc import Sequence
from multiprocessing.connection import Connection

import numpy as np

from learning.parcels import Entry, encode
from learning.secagg import contributor
from learning.secagg.context import RoundContext
from learning.secagg.contributor import UploadPackage, prepare_upload
from learning.secagg.packing import RingVector
from learning.secagg.quantize import RoundingStream
from policies.canonical import canonical_json
from policies.signing import Signer
from tests.benchmarks.secagg_clock import Stopwatch, peak_bytes
from tests.benchmarks.secagg_stage import Pool, Shape
from tests.support.secagg_star import member_signer

ROLE = "contributor"
QUANTISE, MASKS, SEALS, HEADER, HASH = "quantise", "masks: AES and add", "HPKE", "JSON, signatures", "BLAKE3, copies"
# Who dies in mid-upload has reached so many seats, and no carrier with its vector.
_REACHED = 2


def contribute(shape: Shape, pipe: Connection) -> None:
    """Run every contributor of ``shape``, one after the other."""
    watch = Stopwatch()
    watch.wrap(contributor, "accumulate", MASKS)
    watch.wrap(contributor, "seal", SEALS)
    watch.wrap(contributor, "sign_header", HEADER)
    pool = Pool(shape.d)
    signers: dict[int, Signer] = {}
    uploads = uploaded = 0
    each: list[float] = []
    for leaf in shape.tree.leaves:
        context, total = shape.context(leaf), np.zeros(shape.d, dtype="<u4")
        for number in shape.contributors(leaf):
            if shape.dead.get(number) is False:
                continue
            signer = signers.setdefault(shape.provider(number), member_signer(shape.provider(number)))
            before = sum(watch.seconds.values())
            sent = _upload(shape, context, number, pool, signer, watch, pipe, total)
            each.append(sum(watch.seconds.values()) - before)
            if number not in shape.dead:
                uploads, uploaded = uploads + 1, uploaded + sent
        pipe.send_bytes(b"")
        pipe.send_bytes(total)
    seconds = [[*key, spent] for key, spent in watch.seconds.items()]
    costs = {
        "seconds": seconds,
        "median": float(np.median(each)),
        "uploads": uploads,
        "uploaded": uploaded,
        "peak": peak_bytes(),
    }
    pipe.send_bytes(json.dumps(costs).encode())


def _upload(
    shape: Shape,
    context: RoundContext,
    number: int,
    pool: Pool,
    signer: Signer,
    watch: Stopwatch,
    pipe: Connection,
    total: RingVector,
) -> int:
    """Send one contributor's package, and add its plain vector to the clear sum; return the bytes that it sends."""
    values = pool.update(number)
    with watch.role(ROLE, QUANTISE):
        vector = shape.layout.encode({"w": values}, RoundingStream(number.to_bytes(32, "big")))
    if number not in shape.dead:
        np.add(total, vector, out=total)
    with watch.role(ROLE, HASH):
        package = prepare_upload(
            vector,
            context=context,
            group=shape.group,
            signer=signer,
            contributor=shape.contributor_id(number),
            spend=True,
        )
    with watch.role(ROLE, HEADER):
        sent = _bodies(package, shape.group.carriers(context, shape.contributor_id(number)))
    columns = bytes(range(_REACHED if number in shape.dead else shape.seats))
    pipe.send_bytes(columns)
    pipe.send_bytes(canonical_json(package.document))
    pipe.send_bytes(b"".join(package.boxes))
    pipe.send_bytes(package.vector)
    if shape.in_turn:
        pipe.recv_bytes()
    return sent


def _bodies(package: UploadPackage, carriers: Sequence[int]) -> int:
    """Return the bytes of what a contributor sends, as the learning API has it, without HTTP.

    The first carrier gets header, vector, its own box and those of the seats that it hands copies to; a seat that
    stores no copy gets header and box.
    """
    boxes = {column: base64.b64encode(box).decode() for column, box in enumerate(package.boxes)}
    first, *others = carriers
    copies = {str(column): boxes[column] for column in others}
    entries = [Entry(document=package.document, box=boxes[first], vector=b"", copies=copies)]
    entries += [Entry(document=package.document, box=boxes[column]) for column in boxes if column not in carriers]
    return len(package.vector) + sum(len(encode([entry])) for entry in entries)
