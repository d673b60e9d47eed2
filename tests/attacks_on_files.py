"""Attacks by hand on files: weights, certificates, the independent checker, loading."""

from __future__ import annotations

import copy
import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attacks import Outcome, Verdict, refusal
from attacks_by_hand import attack
from attacks_runs import checked, saved

from pnp_lip import check
from pnp_lip.certificates import Certificate
from pnp_lip.pretrained import load_denoiser

HEADERS, FIELDS, LOADING = "safetensors headers", "certificate fields", "loading"
Change = Callable[[dict[str, Any], bytes], tuple[Any, bytes]]


def pair() -> tuple[dict[str, Any], bytes, dict[str, Any]]:
    """The header, the tensors and the certificate of an honest denoiser of two layers."""
    weights, text = saved("zeros", 2)
    length = int.from_bytes(weights[:8], "little")
    return json.loads(weights[8 : 8 + length]), weights[8 + length :], json.loads(text)


def joined(header: Any, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def refused_by_checker(header: Any, body: bytes, certificate: dict[str, Any], what: str) -> Outcome:
    wrong = checked(joined(header, body), json.dumps(certificate))
    return Outcome(Verdict.REFUSED if wrong else Verdict.FALSE_PASS, wrong[0] if wrong else "verified", what)


def on_header(*, new: bool = False, kind: str = HEADERS) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A function that changes (header, body) and returns both; the checker must refuse."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        def run() -> Outcome:
            header, body, certificate = pair()
            changed = function(header, body)
            return refused_by_checker(*changed, certificate, function.__name__)

        run.__name__ = function.__name__
        attack(kind, new=new)(run)
        return function

    return register


def on_field(*, new: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A function that changes a certificate in place; the checker must refuse."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        def run() -> Outcome:
            header, body, certificate = pair()
            function(certificate, certificate["layers"][1])
            return refused_by_checker(header, body, certificate, function.__name__)

        run.__name__ = function.__name__
        attack(FIELDS, new=new)(run)
        return function

    return register


# ---- headers


@on_header()
def a_key_twice(header: dict[str, Any], body: bytes) -> tuple[Any, bytes]:
    """Readers differ in which of the two they take."""
    loud = np.frombuffer(body, "<f4") * 9
    name, entry = "layers.0.weight", header["layers.0.weight"]
    other = {**entry, "data_offsets": [o + len(body) for o in entry["data_offsets"]]}
    text = json.dumps(header)
    twice = text[:1] + json.dumps({name: other})[1:-1] + ", " + text[1:]
    return twice.encode(), body + loud.astype("<f4").tobytes()


@on_header()
def bytes_that_no_tensor_covers(header: dict[str, Any], body: bytes) -> tuple[Any, bytes]:
    return header, body + b"\0" * 64


@on_header(new=True)
def a_hole_between_tensors(header: dict[str, Any], body: bytes) -> tuple[Any, bytes]:
    last = max((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"][1])
    start, end = header[last]["data_offsets"]
    header[last]["data_offsets"] = [start + 8, end + 8]
    return header, body[:start] + b"\1" * 8 + body[start:]


@on_header(new=True)
def tensors_that_overlap(header: dict[str, Any], body: bytes) -> tuple[Any, bytes]:
    header["layers.1.weight"]["data_offsets"] = header["layers.0.weight"]["data_offsets"]
    return header, body


@on_header(new=True)
def a_duplicate_metadata(header: dict[str, Any], body: bytes) -> tuple[Any, bytes]:
    """Two configurations: the first one wraps around."""
    meta = copy.deepcopy(header["__metadata__"])
    meta["config"] = meta["config"].replace('"zeros"', '"circular"')
    text = json.dumps(header)
    return (text[:1] + json.dumps({"__metadata__": meta})[1:-1] + ", " + text[1:]).encode(), body


@on_header(new=True)
def a_duplicate_key_in_the_configuration(header: dict[str, Any], body: bytes) -> tuple[Any, bytes]:
    config = header["__metadata__"]["config"]
    header["__metadata__"]["config"] = '{"dilations": [3, 3], ' + config[1:]
    return header, body


@on_header(new=True)
def offsets_the_wrong_way_round(header: dict[str, Any], body: bytes) -> tuple[Any, bytes]:
    header["layers.0.weight"]["data_offsets"].reverse()
    return header, body


@on_header(new=True)
def negative_offsets(header: dict[str, Any], body: bytes) -> tuple[Any, bytes]:
    start, end = header["layers.0.weight"]["data_offsets"]
    header["layers.0.weight"]["data_offsets"] = [start - len(body), end - len(body)]
    return header, body


@on_header(new=True)
def a_shape_that_does_not_fit(header: dict[str, Any], body: bytes) -> tuple[Any, bytes]:
    header["layers.0.weight"]["shape"][0] += 1
    return header, body


@on_header(new=True)
def a_shape_with_a_free_side(header: dict[str, Any], body: bytes) -> tuple[Any, bytes]:
    header["layers.0.weight"]["shape"][0] = -1
    return header, body


@on_header(new=True)
def channels_exchanged(header: dict[str, Any], body: bytes) -> tuple[Any, bytes]:
    shape = header["layers.0.weight"]["shape"]
    shape[0], shape[1] = shape[1], shape[0]
    return header, body


@on_header(new=True)
def another_dtype_of_the_same_bytes(header: dict[str, Any], body: bytes) -> tuple[Any, bytes]:
    header["layers.0.weight"]["dtype"] = "I32"
    return header, body


@on_header(new=True)
def a_length_beyond_the_file(header: dict[str, Any], body: bytes) -> tuple[Any, bytes]:
    return json.dumps(header).encode() + b" " * 10, body[:4]


@on_header(new=True)
def the_configuration_of_another_padding(header: dict[str, Any], body: bytes) -> tuple[Any, bytes]:
    header["__metadata__"]["config"] = header["__metadata__"]["config"].replace('"zeros"', '"circular"')
    return header, body


@on_header(new=True)
def the_configuration_of_a_layer_less(header: dict[str, Any], body: bytes) -> tuple[Any, bytes]:
    config = json.loads(header["__metadata__"]["config"])
    header["__metadata__"]["config"] = json.dumps({**config, "dilations": config["dilations"][:-1]})
    return header, body


@on_header(new=True)
def the_format_of_a_gradient_step(header: dict[str, Any], body: bytes) -> tuple[Any, bytes]:
    header["__metadata__"]["format"] = "pnp-lip gradient-step potential 1"
    return header, body


@on_header(new=True)
def metadata_that_states_the_dtype(header: dict[str, Any], body: bytes) -> tuple[Any, bytes]:
    header["__metadata__"]["dtype"] = "float64"
    header["layers.0.tau"]["dtype"] = "F64"
    return header, body


@on_header(new=True)
def other_weights_of_the_same_shape(header: dict[str, Any], body: bytes) -> tuple[Any, bytes]:
    return header, (np.frombuffer(body, "<f4") * np.float32(1.5)).astype("<f4").tobytes()


@on_header(new=True)
def weights_of_nan(header: dict[str, Any], body: bytes) -> tuple[Any, bytes]:
    return header, np.full(len(body) // 4, np.nan, "<f4").tobytes()


# ---- fields


def scaled(text: str, factor: float) -> str:
    return (float.fromhex(text) * factor).hex()


@on_field()
def an_upper_bound_that_is_too_small(c: dict[str, Any], layer: dict[str, Any]) -> None:
    layer["norm"]["upper"] = scaled(layer["norm"]["upper"], 0.9)


@on_field()
def a_scope_that_is_not_its(c: dict[str, Any], layer: dict[str, Any]) -> None:
    layer["norm"]["padding_mode"] = "circular"


@on_field()
def a_smallest_image_of_a_layer(c: dict[str, Any], layer: dict[str, Any]) -> None:
    layer["norm"]["smallest_image"] = [0, 0]


@on_field(new=True)
def a_smallest_image_of_the_map(c: dict[str, Any], layer: dict[str, Any]) -> None:
    c["smallest_image"] = [0, 1]


@on_field(new=True)
def divisors_of_the_map(c: dict[str, Any], layer: dict[str, Any]) -> None:
    c["divisible_by"] = [0, 1]


@on_field(new=True)
def divisors_that_are_no_numbers(c: dict[str, Any], layer: dict[str, Any]) -> None:
    layer["norm"]["divisible_by"] = [True, True, True]


@on_field(new=True)
def averagedness_of_nan(c: dict[str, Any], layer: dict[str, Any]) -> None:
    c["bound"]["averagedness"] = "nan"


@on_field(new=True)
def averagedness_below_zero(c: dict[str, Any], layer: dict[str, Any]) -> None:
    c["bound"]["averagedness"] = "-0x1p+3"


@on_field(new=True)
def a_lipschitz_constant_of_nan(c: dict[str, Any], layer: dict[str, Any]) -> None:
    c["bound"]["lipschitz"] = "nan"


@on_field(new=True)
def rounding_of_nan(c: dict[str, Any], layer: dict[str, Any]) -> None:
    c["rounding"] = "nan"


@on_field(new=True)
def rounding_of_nothing(c: dict[str, Any], layer: dict[str, Any]) -> None:
    c["rounding"] = "0x0p+0"


@on_field(new=True)
def a_margin_of_nan(c: dict[str, Any], layer: dict[str, Any]) -> None:
    layer["margin"] = "nan"


@on_field(new=True)
def a_lower_bound_of_nan(c: dict[str, Any], layer: dict[str, Any]) -> None:
    layer["norm"]["lower"] = "nan"


@on_field(new=True)
def a_lower_bound_above_the_upper(c: dict[str, Any], layer: dict[str, Any]) -> None:
    layer["norm"]["lower"] = scaled(layer["norm"]["upper"], 1.5)


@on_field(new=True)
def an_infinite_upper_bound(c: dict[str, Any], layer: dict[str, Any]) -> None:
    """True of the norm, and then nothing else is."""
    layer["norm"]["upper"] = "inf"


@on_field(new=True)
def a_layer_twice(c: dict[str, Any], layer: dict[str, Any]) -> None:
    c["layers"].append(copy.deepcopy(layer))


@on_field(new=True)
def layers_in_another_order(c: dict[str, Any], layer: dict[str, Any]) -> None:
    c["layers"].reverse()


@on_field(new=True)
def a_tau_that_is_not_stored(c: dict[str, Any], layer: dict[str, Any]) -> None:
    layer["tau"] = scaled(layer["tau"], 0.5)


@on_field(new=True)
def slopes_that_help(c: dict[str, Any], layer: dict[str, Any]) -> None:
    layer["slopes"] = [0, 0.5]


@on_field(new=True)
def a_box_out_of_the_air(c: dict[str, Any], layer: dict[str, Any]) -> None:
    c["bound"]["box"] = [0.0, 1.0]


@on_field(new=True)
def a_potential_out_of_the_air(c: dict[str, Any], layer: dict[str, Any]) -> None:
    c["bound"]["proximal"] = True


@on_field(new=True)
def a_method_that_was_not_used(c: dict[str, Any], layer: dict[str, Any]) -> None:
    layer["norm"]["method"] = "CLOSED_FORM"


@on_field(new=True)
def a_hash_in_capitals(c: dict[str, Any], layer: dict[str, Any]) -> None:
    c["weights"] = {name: value.upper() for name, value in c["weights"].items()}


@on_field(new=True)
def a_tensor_that_does_not_exist(c: dict[str, Any], layer: dict[str, Any]) -> None:
    c["weights"]["layers.2.weight"] = "0" * 64


@on_field(new=True)
def a_statement_of_the_user(c: dict[str, Any], layer: dict[str, Any]) -> None:
    """Nothing of such a file is stated by anybody."""
    c["stated"] = ["the slopes of layers.0"]


@on_field(new=True)
def a_schema_of_the_future(c: dict[str, Any], layer: dict[str, Any]) -> None:
    c["schema"] = "pnp-lip certificate 99"


@attack(FIELDS, new=True)
def a_key_twice_in_the_certificate() -> Outcome:
    """json takes the last of two, other readers the first."""
    header, body, certificate = pair()
    text = json.dumps(certificate)
    forged = text[:1] + '"bound": {"lipschitz": "0x1p-3", "averagedness": "0x1p-3", "proximal": true, "box": null}, ' + text[1:]
    wrong = checked(joined(header, body), forged)
    return Outcome(Verdict.REFUSED if wrong else Verdict.FALSE_PASS, wrong[0] if wrong else "verified", "two bounds")


@attack(FIELDS)
def an_honest_pair() -> Outcome:
    header, body, certificate = pair()
    wrong = checked(joined(header, body), json.dumps(certificate))
    return Outcome(Verdict.HONEST_REFUSED if wrong else Verdict.TRUE, "; ".join(wrong) or "verified", "honest")


@attack(FIELDS, new=True)
def the_checker_as_a_command() -> Outcome:
    """Exit status 1 for what is refuted and 2 for what cannot be, never 0."""
    weights, text = saved("zeros", 2)
    record = json.loads(text)
    record["bound"]["averagedness"] = "0x1p-9"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "d").write_bytes(weights)
        (Path(folder) / "c").write_text(json.dumps(record))
        status = check.main([str(Path(folder) / "d"), str(Path(folder) / "c")])
    return Outcome(Verdict.REFUSED if status in (1, 2) else Verdict.FALSE_PASS, str(status), "1 or 2")


def read_back(change: Callable[[dict[str, Any]], None]) -> Outcome:
    """``Certificate.from_json`` of a forged text must not hold what is impossible."""
    record = pair()[2]
    change(record)
    try:
        found = Certificate.from_json(json.dumps(record))
    except Exception as error:
        return refusal(error, honest=False)
    sound = found.bound.lipschitz >= 0 and all(len(size) == 2 for size in (found.smallest_image,))
    return Outcome(Verdict.TRUE if sound and isinstance(found.layers, tuple) else Verdict.FALSE_PASS, str(found.bound), "")


@attack(FIELDS, new=True)
def a_certificate_read_back_with_nan() -> Outcome:
    return read_back(lambda r: r["bound"].update(lipschitz="nan"))


@attack(FIELDS, new=True)
def a_certificate_read_back_with_an_infinite_constant() -> Outcome:
    return read_back(lambda r: r["bound"].update(lipschitz="inf"))


@attack(FIELDS, new=True)
def a_certificate_read_back_with_another_field() -> Outcome:
    return read_back(lambda r: r.update(proved=True))


@attack(FIELDS, new=True)
def a_certificate_read_back_without_layers() -> Outcome:
    return read_back(lambda r: r.pop("layers"))


# ---- loading


def loaded(header: Any, body: bytes, certificate: dict[str, Any] | None, what: str, name: str = "d.safetensors") -> Outcome:
    """What is loaded as certified must be nonexpansive: steps of twice the limit are not."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(joined(header, body))
        if certificate is not None:
            path.with_suffix(".certificate.json").write_text(json.dumps(certificate))
        try:
            load_denoiser(path)
        except Exception as error:
            return refusal(error, honest=False, what=what)
    return Outcome(Verdict.FALSE_PASS, "loaded as certified", what)


def louder(body: bytes) -> bytes:
    return (np.frombuffer(body, "<f4") * np.float32(3)).astype("<f4").tobytes()


@attack(LOADING)
def expansive_weights_beside_an_honest_certificate() -> Outcome:
    header, body, certificate = pair()
    return loaded(header, louder(body), certificate, "weights times 3")


@attack(LOADING, new=True)
def expansive_weights_without_a_certificate() -> Outcome:
    header, body, _ = pair()
    return loaded(header, louder(body), None, "weights times 3")


@attack(LOADING, new=True)
def expansive_weights_with_matching_hashes() -> Outcome:
    header, body, certificate = pair()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d"
        path.write_bytes(joined(header, louder(body)))
        certificate["weights"] = check.read_safetensors(path)[1]
    return loaded(header, louder(body), certificate, "weights times 3, hashes forged")


@attack(LOADING, new=True)
def two_names_for_one_tensor() -> Outcome:
    header, body, certificate = pair()
    header["layers.0.weight "] = header["layers.0.weight"]
    return loaded(header, body, certificate, "a name with a space")


@attack(LOADING, new=True)
def a_pickle_that_runs_code() -> Outcome:
    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (Path(tempfile.gettempdir()) / "pnp-lip-evil",))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "d.pt"
        torch.save({"config": Evil(), "state_dict": {}}, path)
        try:
            load_denoiser(path)
        except Exception as error:
            return refusal(error, honest=False)
    return Outcome(Verdict.FALSE_PASS, "loaded", "")


@attack(LOADING, new=True)
def a_configuration_with_another_class() -> Outcome:
    header, body, certificate = pair()
    config = json.loads(header["__metadata__"]["config"])
    header["__metadata__"]["config"] = json.dumps({**config, "padding_mode": "reflect"})
    return loaded(header, body, certificate, "reflect")


@attack(LOADING, new=True)
def a_certificate_of_the_first_schema() -> Outcome:
    header, body, certificate = pair()
    return loaded(header, body, {**certificate, "schema": "pnp-lip certificate 1"}, "old schema")
