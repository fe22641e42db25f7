"""Every error code of the service and its library: what it means, and what to do.

Answers carry the exact sentence for the case at hand; this is the table of all of them, as
`docs/errors.md` and the OpenAPI document show it. A test compares it with the code.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """What a code means."""

    statuses: tuple[int, ...]
    """HTTP statuses that it comes with; none: only in a job's `error`, or from the library."""
    meaning: str
    remedy: str


def _answer(*statuses: int, meaning: str, remedy: str) -> ErrorCode:
    return ErrorCode(statuses, meaning, remedy)


def _file(meaning: str, remedy: str) -> ErrorCode:
    """Make the entry of a file that is refused."""
    return ErrorCode((422,), f"the file {meaning}", remedy)


def _job(meaning: str, remedy: str) -> ErrorCode:
    """Make the entry of what ends a job, or what the library raises."""
    return ErrorCode((), meaning, remedy)


_SAVE_AGAIN = "save the weights again with `torch.save(model.state_dict(), path)` or safetensors"
_PACK_AGAIN = "make the archive again, with an ordinary tool"
_REPORT = "try again; report it if it happens again"

ERROR_CODES: dict[str, ErrorCode] = {
    # Who asks
    "missing_key": _answer(
        401,
        meaning="the service needs a key",
        remedy="send `Authorization: Bearer mz_...`; whoever runs the service makes keys",
    ),
    "invalid_key": _answer(
        401,
        meaning="the key is unknown, was revoked, or has expired",
        remedy="send another one",
    ),
    "insufficient_scope": _answer(
        403, meaning="the key lacks the scope", remedy="ask for a key with the scope that it names"
    ),
    "foreign_site": _answer(
        403,
        meaning="a web page of another site asks, without a key",
        remedy="ask from this machine's own programs, or send a key",
    ),
    # What is asked for
    "invalid_request": _answer(
        422,
        meaning="an option does not exist, or has a value that it cannot have",
        remedy="mend what `errors` points at",
    ),
    "invalid_option": _answer(
        422, meaning="an option has a value that it cannot have", remedy="choose one that it names"
    ),
    "malformed_json": _answer(
        400, meaning="the request is no JSON", remedy="check it with a JSON tool"
    ),
    "malformed_multipart": _answer(
        400, meaning="the form contradicts its format", remedy="let a library or curl make it"
    ),
    "malformed_range": _answer(
        400, meaning="the header `Range` is malformed", remedy="send `bytes=FIRST-LAST`"
    ),
    "malformed_digest": _answer(
        400,
        meaning="`Content-Digest` is none",
        remedy="send `sha-256=:BASE64:`, or leave it out",
    ),
    "unsupported_content_type": _answer(
        415, meaning="the body's type is not taken here", remedy="send the type that it names"
    ),
    "unknown_part": _answer(
        422, meaning="the form has a part that is not known", remedy="name it as the API does"
    ),
    "request_too_large": _answer(
        413, meaning="the part `request` is too large", remedy="leave out what it need not say"
    ),
    "missing_source": _answer(
        422,
        meaning="nothing says what to convert",
        remedy="send a checkpoint, or name a zoo entry or an upload",
    ),
    "ambiguous_source": _answer(
        422, meaning="two things say what to convert", remedy="leave one of them out"
    ),
    "missing_preprocessing": _answer(
        422,
        meaning="data came, and nothing says how pixels are normalised",
        remedy="give `preprocessing.mean` and `.std`",
    ),
    "idempotency_key_reused": _answer(
        422,
        meaning="the `Idempotency-Key` was sent before, with another request",
        remedy="take a new key",
    ),
    "unknown_dataset": _answer(
        422,
        meaning="no worker has a registered data set of that name",
        remedy="take one of `GET /datasets`, or send the images",
    ),
    "unknown_zoo_entry": _answer(
        422, meaning="the zoo has no such entry", remedy="choose one of `GET /zoo`"
    ),
    "too_slow": _answer(
        408, meaning="the request comes too slowly", remedy="send large files in pieces (tus)"
    ),
    "malformed_header": _answer(
        400, meaning="a header is missing or malformed", remedy="send it as its sentence says"
    ),
    "tus_version": _answer(
        412, meaning="the header `Tus-Resumable` is not 1.0.0", remedy="use a client of tus 1.0"
    ),
    "method_not_allowed": _answer(
        405, meaning="the path does not know the method", remedy="use one of the header `Allow`"
    ),
    # What there is not
    "not_found": _answer(404, meaning="there is no such path", remedy="`GET /docs` lists them"),
    "job_not_found": _answer(
        404, meaning="there is no such job", remedy="take an id of `GET /jobs`"
    ),
    "upload_not_found": _answer(
        404,
        meaning="there is no such upload; it may have expired",
        remedy="send the file again with `POST /uploads`",
    ),
    "key_not_found": _answer(404, meaning="there is no such key", remedy="look at `GET /keys`"),
    "webhook_not_found": _answer(
        404, meaning="there is no such webhook", remedy="look at `GET /webhooks`"
    ),
    "worker_not_found": _answer(
        404, meaning="there is no such worker", remedy="look at `GET /workers`"
    ),
    "queue_not_found": _answer(
        404, meaning="there is no such queue", remedy="look at `GET /queues`"
    ),
    "delivery_not_found": _answer(
        404,
        meaning="the webhook has no such message",
        remedy="look at `GET /webhooks/{id}/deliveries`",
    ),
    "inspection_not_found": _answer(
        404,
        meaning="there is no such inspection; they are kept for an hour",
        remedy="ask again with `POST /inspect`",
    ),
    "artifact_not_found": _answer(
        404, meaning="the job has no such file", remedy="choose one of its `artifacts`"
    ),
    "range_not_satisfiable": _answer(
        416, meaning="the file ends before the range", remedy="ask for a range inside"
    ),
    "precondition_failed": _answer(
        412,
        meaning="the file is another version than `If-Match` or `If-Unmodified-Since` asks for",
        remedy="ask without that header",
    ),
    # The state of a job
    "job_not_finished": _answer(
        409, meaning="the job waits or runs", remedy="ask again after `Retry-After` seconds"
    ),
    "job_finished": _answer(409, meaning="the job has ended", remedy="there is nothing to stop"),
    "job_failed": _answer(
        409,
        meaning="the job has failed, so it has no files",
        remedy="mend what its `error` says, then `POST /jobs/{id}/retry`",
    ),
    "job_cancelled": _answer(
        409,
        meaning="the job was cancelled, so it has no files",
        remedy="`POST /jobs/{id}/retry` asks for it again",
    ),
    # Files that come in pieces
    "upload_incomplete": _answer(
        409, meaning="a part of the upload is missing", remedy="send the rest with `PATCH`"
    ),
    "upload_complete": _answer(
        409, meaning="all of the upload is there", remedy="name it in a request"
    ),
    "offset_conflict": _answer(
        409,
        meaning="the piece does not begin where the upload ends",
        remedy="go on from `Upload-Offset`",
    ),
    "upload_locked": _answer(
        423, meaning="another request sends a piece", remedy="try again after `Retry-After`"
    ),
    "chunk_checksum_mismatch": _answer(
        460, meaning="the piece is not what `Upload-Checksum` says", remedy="send the piece again"
    ),
    # Webhooks
    "refused_address": _answer(
        422,
        meaning="the URL is none, or not at a public address",
        remedy="send `https://host/path`; the operator may allow `MOMENTUM_WEBHOOK_NETWORKS`",
    ),
    "webhook_disabled": _answer(
        409, meaning="the webhook's receiver has said that it is gone", remedy="make a new webhook"
    ),
    "too_many_webhooks": _answer(
        429, meaning="the tenant has as many webhooks as it may", remedy="delete one"
    ),
    # Room
    "no_suitable_worker": _answer(
        422,
        meaning="the job takes a device, or more memory, than any worker has that was seen within "
        "the last hour",
        remedy="ask for less in `worker`, or have the operator start such a worker",
    ),
    "too_many_jobs": _answer(
        429,
        meaning="as many jobs of the tenant wait or run as may",
        remedy="ask again when one has ended",
    ),
    "too_many_inspections": _answer(
        429,
        meaning="as many inspections of the tenant wait for their answer as may",
        remedy="ask again when one has it",
    ),
    "quota_exceeded": _answer(
        429,
        meaning="the tenant's files take as much as they may",
        remedy="delete uploads or jobs that are not needed any more",
    ),
    "upload_too_large": _answer(
        413,
        meaning="the file or the request is too large",
        remedy="send less, or have the operator raise `MOMENTUM_MAX_UPLOAD_BYTES`",
    ),
    "storage_full": _answer(
        507, meaning="the service's disk is full", remedy="have the operator free space"
    ),
    "storage_unavailable": _answer(
        503,
        meaning="the object store of the service does not answer",
        remedy="try again after `Retry-After`; have the operator look at the store",
    ),
    # Files that are refused
    "unsupported_format": _answer(
        415, meaning="the file is of a format that is not read", remedy=_SAVE_AGAIN
    ),
    "malformed_file": _file("contradicts its format or itself", _SAVE_AGAIN),
    "truncated_file": _file("ends early", "send it again, whole"),
    "checksum_mismatch": _file(
        "does not match a checksum in it, the recorded one, or `Content-Digest`", "send it again"
    ),
    "unsafe_pickle": _file("refers to functions or classes that weights do not need", _SAVE_AGAIN),
    "unsafe_archive": _file("shows different readers different things", _PACK_AGAIN),
    "unsafe_path": _file("has a path that leads out of it, a link, or a device", _PACK_AGAIN),
    "expands_too_large": _file("unpacks to too much", "send less of it"),
    "too_many_tensors": _file("holds too many tensors", "have the operator raise the limit"),
    "too_many_files": _file("holds too many files", "send fewer"),
    "too_complex": _file("takes too much time or memory to read", _SAVE_AGAIN),
    "tensor_out_of_bounds": _file("has a tensor beyond its bytes", _SAVE_AGAIN),
    "tensor_aliasing": _file("has tensors that share part of their memory", _SAVE_AGAIN),
    "tensor_too_large": _file(
        "has a tensor that is too large", "have the operator raise the limit"
    ),
    "bad_tensor_name": _file("has a tensor with a name that is not allowed", "rename the tensor"),
    "unsupported_dtype": _file(
        "has a tensor of a type that is not read", "save it as float32, float16 or bfloat16"
    ),
    "non_finite_weights": _file(
        "has NaN or infinity among the weights", "send a checkpoint from before that"
    ),
    "architecture_mismatch": _file(
        "fits no known architecture, or not the one named", "name what it is in `architecture`"
    ),
    "unknown_architecture": _file(
        "is said to be what is not known", "choose one of the architectures of `GET /zoo`"
    ),
    "invalid_data": _file(
        "is a data set that does not fit, or not the network", "send it as the API describes"
    ),
    "no_images": _file("has no images", "pack images, in class folders if their classes are known"),
    "bad_image": _file("has too many images that cannot be decoded", "take them out"),
    "image_too_large": _file("has too many images that are too large", "make them smaller"),
    "inspection_crashed": _file("made its inspector fail", _SAVE_AGAIN),
    "inspection_unavailable": _answer(
        503,
        meaning="this machine cannot inspect files safely",
        remedy="have the operator look at the log of the service",
    ),
    # What ends a job
    "zoo_unavailable": _answer(
        503,
        meaning="the zoo's weights, or what a hub says of them, could not be fetched",
        remedy="try again, or fill the zoo's folder by hand",
    ),
    "out_of_memory": _job(
        "the worker ran out of memory",
        "try smaller `measurement.batch_size` and `refinement.batch_size`",
    ),
    "inspection_not_answered": _answer(
        503,
        meaning="the inspection worker does not answer",
        remedy="try again, or look at its log; conversions by the catalogue's names do not need it",
    ),
    "attempts_exhausted": _job(
        "every attempt ended with its worker", "look at the worker's log, then retry"
    ),
    "non_finite_output": _job(
        "the original network's output is not finite", "look at its weights and preprocessing"
    ),
    "verification_failed": _job("the saved weights give other logits than the network", _REPORT),
    "stored_file_damaged": _answer(
        500,
        meaning="a stored file is not what its digest says",
        remedy="send it again, or retry the job; have the disk checked",
    ),
    "lost_database": _job(
        "the record is gone while the files of its jobs are there",
        "put the record back; it is not begun anew by itself",
    ),
    "store_setting": _job(
        "the address or the options of the object store cannot be used",
        "mend `MOMENTUM_STORE_URL` or `MOMENTUM_STORE_OPTIONS`",
    ),
    "tracing_unavailable": _job(
        "traces are asked for, and OpenTelemetry is not installed",
        "install `momentum-zoo[traces]`, or unset `OTEL_EXPORTER_OTLP_ENDPOINT`",
    ),
    "newer_database": _job(
        "the database was upgraded by a newer version of this program", "start that one, everywhere"
    ),
    "database_unavailable": _answer(
        503,
        meaning="the job record does not answer, or is locked for too long",
        remedy="try again after `Retry-After`, with the same `Idempotency-Key`",
    ),
    "internal_error": _answer(
        500, meaning="an error of the service", remedy="look at its log under the job's id"
    ),
    # The library
    "momentum_error": _job("an error that has no code of its own", "read its sentence"),
    "invalid_bundle": _job("a folder or file is no bundle that can be loaded", "save it again"),
    "missing_original": _job(
        "a saved model does not name its architecture", "give a fresh module: load(..., original=)"
    ),
    "not_storable": _job(
        "a block hands on an object that a file cannot describe", "have it return plain tuples"
    ),
    "export_failed": _job(
        "a model cannot be exported, or gives other outputs elsewhere", "read its sentence"
    ),
    "library_missing": _answer(
        422, meaning="a library that only this needs is not installed", remedy="install it"
    ),
    "missing_num_classes": _job(
        "an architecture was named without the outputs of its last layer", "give num_classes"
    ),
    "not_convertible": _job(
        "a model has no part that can be converted, or not the one asked for",
        "look at what the plan says of each block",
    ),
    "already_converted": _job("the model is converted", "`restore` it first"),
    "not_converted": _job("the model is not converted", "`convert` it first"),
    "not_traceable": _job(
        "the model's forward pass depends on values", "convert its parts, or make it static"
    ),
    "missing_example": _job("there is no example input", "give one as the model takes it"),
    "block_output": _job(
        "a block's output is not of its input's shape and type", "leave it out of the run"
    ),
    "noise_above_tolerance": _job(
        "the original disagrees with itself by more than the tolerance", "raise the tolerance"
    ),
    "prediction_failed": _job("memory could not be predicted", "measure it"),
    "measurement_failed": _job("memory could not be measured", _REPORT),
    "not_reversible": _job("a run cannot be reversed exactly as it was used", "read its sentence"),
    "state_out_of_range": _job(
        "an activation is NaN, infinite or too large for the integer state",
        "look at the input and the weights",
    ),
    "not_deterministic": _job(
        "a block gave other values when it was run again", "use deterministic operators"
    ),
    "mutable_argument": _job(
        "a further argument changed between passes", "give it as a tensor that stays"
    ),
    "changed_before_backward": _job(
        "parameters or buffers changed between forward and backward pass",
        "step the optimizer after the backward pass",
    ),
    "overwritten": _job("a block writes into what must stay", "use its form without `inplace`"),
    "captured_tensor": _job(
        "a block uses a tensor that needs a gradient and is no argument", "give it as an argument"
    ),
    "double_backward": _job("gradients of gradients were asked for", "use the original network"),
    "second_backward": _job("the backward pass ran twice", "run the forward pass again"),
    "forward_mode": _job("forward-mode differentiation was asked for", "use the backward mode"),
    "sharded_parameters": _job(
        "parameters are sharded while the run is reversed", "gather them, or use data parallelism"
    ),
}


def markdown_table() -> str:
    """Return the table as `docs/errors.md` has it."""
    lines = ["| code | status | what it means | what to do |", "| --- | --- | --- | --- |"]
    for code, one in ERROR_CODES.items():
        statuses = ", ".join(map(str, one.statuses))
        lines.append(f"| `{code}` | {statuses} | {one.meaning} | {one.remedy} |")
    return "\n".join(lines)
