"""Members that are sounds: .wav files of any width, and what is said of unusable ones."""

import io

import numpy as np
import pytest
import torch
from scipy.io import wavfile
from support.shards import write_tar
from torch import nn

from jvpsvd import survey
from jvpsvd.data.inputs import decode_member
from jvpsvd.errors import InputError, ModelError
from jvpsvd.networks import Inputs, Model

RATE = 8000


def wav(samples, rate=RATE):
    file = io.BytesIO()
    wavfile.write(file, rate, samples)
    return file.getvalue()


def wav24(samples):
    """One channel of 24 bits, which SciPy reads and does not write."""
    data = b"".join(int(s).to_bytes(3, "little", signed=True) for s in samples)
    head = np.array([16], "<u4").tobytes() + np.array([1, 1], "<u2").tobytes()
    head += np.array([RATE, 3 * RATE], "<u4").tobytes() + np.array([3, 24], "<u2").tobytes()
    body = b"WAVEfmt " + head + b"data" + np.array([len(data)], "<u4").tobytes() + data
    return b"RIFF" + np.array([len(body)], "<u4").tobytes() + body


HALVES = [0.0, 0.5, -1.0, -0.25]
WIDTHS = {
    "8 bits": wav(np.array([128, 192, 0, 96], np.uint8)),
    "16 bits": wav(np.array([0, 1 << 14, -(1 << 15), -(1 << 13)], np.int16)),
    "24 bits": wav24([0, 1 << 22, -(1 << 23), -(1 << 21)]),
    "32 bits": wav(np.array([0, 1 << 30, -(1 << 31), -(1 << 29)], np.int32)),
    "float32": wav(np.array(HALVES, np.float32)),
    "float64": wav(np.array(HALVES, np.float64)),
}


@pytest.mark.parametrize("data", WIDTHS.values(), ids=WIDTHS)
def test_samples_are_numbers_from_minus_one_to_one(data):
    found = decode_member(data, "wav", RATE)
    assert torch.equal(found, torch.tensor([HALVES]))


def test_channels_come_first():
    left, right = np.arange(3, dtype=np.float32), -np.ones(3, np.float32)
    found = decode_member(wav(np.stack([left, right], axis=1)), "wav", RATE)
    assert found.tolist() == [[0, 1, 2], [-1, -1, -1]]


def test_parts_that_are_no_samples_are_left_out():
    data = WIDTHS["16 bits"]
    more = data + b"abcd" + np.array([4], "<u4").tobytes() + b"note"
    more = more[:4] + np.array([len(more) - 8], "<u4").tobytes() + more[8:]
    assert torch.equal(decode_member(more, "wav", RATE), decode_member(data, "wav", RATE))


SOUND = WIDTHS["16 bits"]
BROKEN = {
    "no sound": (b"words", "5 bytes that are no .wav"),
    "empty": (b"", "0 bytes that are no .wav"),
    "cut in its samples": (SOUND[:-4], "no .wav .it ends before its samples do."),
    "cut in its head": (SOUND[:30], "no .wav"),
    "compressed": (SOUND[:20] + b"\x11" + SOUND[21:], "no .wav .Unknown wave file format"),
    "without samples": (wav(np.zeros(0, np.int16)), "has no samples"),
    "another rate": (wav(np.zeros(4, np.int16), 44100), "it has 44100 samples a second, .*8000"),
}


@pytest.mark.parametrize(("data", "said"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_used_says_why_in_one_line(data, said):
    with pytest.raises(InputError, match=said) as caught:
        decode_member(data, "wav", RATE)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_survey_of_sounds(tmp_path, channels, dtype):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv1d(channels, 2, 3), nn.Tanh()).eval()
    scale = 32767 if dtype == np.int16 else 1
    sounds = [(scale * np.random.default_rng(i).uniform(-1, 1, (8, channels))) for i in range(3)]
    members = [(f"s{i}.wav", wav(sound.astype(dtype))) for i, sound in enumerate(sounds)]
    members.append(("other.wav", wav(sounds[0].astype(dtype), 2 * RATE)))
    inputs = Inputs("wav", torch.zeros(channels, 8), lambda sound: sound[None], rate=RATE)
    spec = survey.Spec(
        shards=[write_tar(tmp_path / "a.tar", members)],
        model=Model.of(net, inputs),
        layers=["output"],
        k=4,
        device="cpu",
        out=tmp_path / "run",
    )
    outcome = survey.run(spec, report=False)
    assert (outcome.computed, outcome.failures) == (3, 1)
    rows = {row["key"]: row for row in outcome.results.table().to_pylist()}
    assert "rate=8000; resample it" in rows["other"]["message"]
    for s, (_, data) in zip(outcome.results.spectra("output").s, members, strict=False):
        x = decode_member(data, "wav")[None]
        J = torch.func.jacrev(net)(x).detach().reshape(12, -1)
        np.testing.assert_allclose(s, torch.linalg.svdvals(J)[:4], rtol=1e-4)


@pytest.mark.parametrize(("suffix", "rate"), [("wav", None), ("wav", 0), ("npy", RATE)])
def test_sounds_alone_have_a_rate(suffix, rate):
    with pytest.raises(ModelError, match="rate="):
        Inputs(suffix, torch.zeros(1, 8), rate=rate)
