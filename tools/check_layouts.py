#!/usr/bin/env python3
"""Do other tools read what `csmoe synth` and `csmoe patches` write? Opens every layout with GDAL's own programs, pyarrow,
rasterio, h5py and safetensors, and compares the pixels of all of them with the GeoTIFF layout.

Usage: pip install numpy pyarrow rasterio h5py safetensors; tools/check_layouts.py CSMOE      (CSMOE: the program)
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import h5py
import numpy as np
import pyarrow.parquet as pq
import rasterio
from rasterio.io import MemoryFile
from safetensors.numpy import load_file

S2 = ["B02", "B03", "B04", "B08", "B05", "B06", "B07", "B11", "B12", "B8A"]
PAIRS, PX = 24, 120
root = pathlib.Path(tempfile.mkdtemp())


def csmoe(*args):
    subprocess.run([sys.argv[1], *map(str, args)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def gdal(*args):
    return subprocess.run(args, check=True, capture_output=True, text=True).stdout


def fine(a):
    return np.kron(a, np.ones((PX // a.shape[0],) * 2, a.dtype))


for layout in ["geotiff", "major-tom", "bigearthnet", "geobench"]:
    csmoe("synth", "--layout", layout, "--out", root / layout, "--pairs", PAIRS, "--tile-px", PX)
csmoe("patches", "--archive", root / "geotiff", "--out", root / "store")

want = []
for i in range(PAIRS):
    name = f"synth42_{i:06}.tif"
    with rasterio.open(root / "geotiff/S1" / name) as s1, rasterio.open(root / "geotiff/S2" / name) as s2:
        assert s2.descriptions == tuple(S2) and s1.descriptions == ("VV", "VH")
        want.append((s1.read(), s2.read()))

# Major TOM: metadata, one row a row group, GeoTIFFs in columns.
for i in range(PAIRS):
    got = {}
    for core, names in [("Core-S1RTC", ["vv", "vh"]), ("Core-S2L2A", S2)]:
        row = pq.read_table(root / "major-tom" / core / "metadata.parquet").to_pylist()[i]
        file = pq.ParquetFile(root / "major-tom" / core / row["parquet_url"])
        group = file.read_row_group(row["parquet_row"]).to_pylist()
        assert len(group) == 1 and group[0]["grid_cell"] == row["grid_cell"]
        for name in names:
            with MemoryFile(group[0][name]) as memory, memory.open() as f:
                assert f.crs.to_string() == row["crs"], (f.crs, row["crs"])
                got[name] = fine(f.read(1))
    assert all((got[n] == a + 1000).all() for n, a in zip(S2, want[i][1]))
    assert all(np.allclose(10 * np.log10(got[n]), a, atol=1e-4) for n, a in zip(["vv", "vh"], want[i][0]))

# BigEarthNet: GDAL's own program and the metadata.
table = pq.read_table(root / "bigearthnet/metadata.parquet").to_pylist()
assert len(table) == PAIRS and isinstance(table[0]["labels"], list)
for i, row in enumerate(table):
    patch, s1 = row["patch_id"], row["s1_name"]
    folder = root / "bigearthnet/BigEarthNet-S2" / patch.rsplit("_", 2)[0] / patch
    for name, a in zip(S2, want[i][1]):
        with rasterio.open(folder / f"{patch}_{name}.tif") as f:
            assert (fine(f.read(1)) == a).all()
    info = json.loads(gdal("gdalinfo", "-json", str(folder / f"{patch}_B05.tif")))
    assert info["size"] == [PX // 2, PX // 2] and info["geoTransform"][1] == 20
    vv = root / "bigearthnet/BigEarthNet-S1" / s1.rsplit("_", 3)[0] / s1 / f"{s1}_VV.tif"
    with rasterio.open(vv) as f:
        assert (f.read(1) == want[i][0][0]).all()

# GEO-Bench: h5py, GDAL, JSON.
parts = json.loads((root / "geobench/default_partition.json").read_text())
assert sorted(sum(parts.values(), [])) == [f"id_{i:06}" for i in range(PAIRS)]
labels = json.loads((root / "geobench/label_map.json").read_text())
assert sum(map(len, labels.values())) == PAIRS
for i in range(PAIRS):
    path = root / f"geobench/id_{i:06}.hdf5"
    with h5py.File(path) as f:
        assert (f["02 - Blue"][:] == want[i][1][0]).all() and (f["08A - Vegetation Red Edge"][:] == want[i][1][9]).all()
        assert np.allclose(10 * np.log10(f["06 - VV.LEE Filtered"][:]), want[i][0][0], atol=1e-4)
info = json.loads(gdal("gdalinfo", "-json", "-stats", f'HDF5:"{path}"://02_-_Blue'))
assert abs(info["bands"][0]["mean"] - want[-1][1][0].mean()) < 1e-2

# The store is safetensors.
shard = load_file(root / "store/shard-00000.safetensors")
assert shard["s2_10m"].dtype == np.uint16 and shard["s2_20m"].shape == (PAIRS, 6, PX // 2, PX // 2)
ids = bytes(shard["ids"]).decode()
for i in range(PAIRS):
    end = shard["id_ends"][i]
    place = int(ids[(0 if i == 0 else shard["id_ends"][i - 1]) : end].rsplit("_", 1)[1])
    assert (shard["s1"][i] == want[place][0]).all() and (shard["s2_10m"][i] == want[place][1][:4]).all()

print(f"{PAIRS} pairs agree in GeoTIFF, Major TOM, BigEarthNet, GEO-Bench and the store")
subprocess.run(["rm", "-rf", root])
