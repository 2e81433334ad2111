"""A Jacobian of 0 has no energy, of which values could hold a share."""

import torch
from torch import nn

import jvpsvd
from jvpsvd.studies.network_spectra import KIND
from jvpsvd.svd.storage import read_record, write_record


def test_inputs_without_energy_are_left_out_of_the_mean():
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU()).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(6))
        net[0].bias.zero_()
    X = torch.cat([torch.ones(3, 6), -torch.ones(1, 6)])
    found = jvpsvd.spectra(net, X, k=3, progress=False)
    assert found["output"].energy_share.isnan().tolist() == [False, False, False, True]
    assert "50 %" in str(found)  # and not 62 %
    nothing = jvpsvd.spectra(net, X[3:], k=3, progress=False)
    assert "%" not in str(nothing)


def test_files_of_earlier_versions_are_read_likewise(tmp_path):
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU()).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(6))
        net[0].bias.zero_()
    X = torch.stack([torch.ones(6), -torch.ones(6)])
    found = jvpsvd.spectra(net, X, k=6, progress=False)
    found.save(tmp_path / "new.safetensors")
    record = read_record(tmp_path / "new.safetensors", KIND, {})
    record["0.energy_share"] = record["0.energy_share"].nan_to_num(1.0)
    write_record(tmp_path / "old.safetensors", KIND, record)
    again = jvpsvd.load(tmp_path / "old.safetensors")
    assert again["output"].energy_share.isnan().tolist() == [False, True]
    assert str(again) == str(found)
