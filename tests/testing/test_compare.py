"""`assert_same` accepts what is as accurate as torch, and can fail in every way that it promises to."""

import pytest
import torch

from batchnorm.testing import assert_same, compare


def case(channels=5, scales=None):
    """Truth, torch-like result (rounded) and a result of ours that is as good."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor(scales or [1.0] * channels, dtype=torch.float64)
    truth = torch.randn(4, channels, 6, generator=generator, dtype=torch.float64) * scale.view(-1, 1)
    return truth, truth.float(), truth.float()


def test_accepts_equal():
    truth, baseline, actual = case()
    assert_same(actual, truth, baseline, strides=True)


def test_accepts_the_baselines_own_error():
    truth, baseline, actual = case()
    baseline[:, 3] += 1e-2
    actual[:, 3] += 0.9e-2
    assert_same(actual, truth, baseline)


def test_accepts_two_units_without_a_baseline():
    truth, _, actual = case()
    assert_same(torch.nextafter(actual, actual + 1), truth)


def test_rejects_a_shift():
    truth, baseline, actual = case()
    with pytest.raises(AssertionError, match=r"y: 5 of 5 channels.*\n.*channel \d: error 0\.001, allowed"):
        assert_same(actual + 1e-3, truth, baseline, name="y")


def test_rejects_one_quiet_channel_beside_a_loud_one():
    truth, baseline, actual = case(5, [1e6, 1, 1, 1e-4, 1])
    actual[:, 3] *= 1.001  # far below one unit in the last place of the loud channel
    with pytest.raises(AssertionError, match=r"1 of 5 channels.*\n  channel 3"):
        assert_same(actual, truth, baseline)


def test_a_bad_baseline_channel_does_not_excuse_the_others():
    truth, baseline, actual = case()
    baseline[:, 0] += 1.0
    actual[:, 1] += 0.5
    with pytest.raises(AssertionError, match=r"channel 1: error 0\.5"):
        assert_same(actual, truth, baseline)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_rejects_not_finite_where_finite_is_due(value):
    truth, baseline, actual = case()
    actual[2, 1, 3] = value
    with pytest.raises(AssertionError, match=r"1 positions are not finite.*\[2, 1, 3\]: got -?(nan|inf)"):
        assert_same(actual, truth, baseline)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_rejects_finite_where_not_finite_is_due(value):
    truth, baseline, actual = case()
    truth[2, 1, 3] = baseline[2, 1, 3] = value
    with pytest.raises(AssertionError, match="finite where they should"):
        assert_same(actual, truth, baseline)


def test_tells_the_infinities_apart():
    truth, baseline, actual = case()
    truth[0, 0, 0] = baseline[0, 0, 0] = torch.inf
    actual[0, 0, 0] = -torch.inf
    with pytest.raises(AssertionError, match="got -inf, expected inf"):
        assert_same(actual, truth, baseline)


def test_not_finite_elements_do_not_hide_errors_beside_them():
    truth, baseline, actual = case()
    for t in (truth, baseline, actual):
        t[0, 2, 0] = torch.nan
    actual[1, 2, 0] += 0.1
    with pytest.raises(AssertionError, match="channel 2"):
        assert_same(actual, truth, baseline)


def test_a_finite_result_is_right_where_only_the_baseline_overflows():
    truth, baseline, actual = case()
    baseline[0, 0, 0] = torch.inf
    assert_same(actual, truth, baseline)


def test_rejects_other_strides_only_when_asked():
    truth, baseline, actual = case()
    turned = actual.transpose(0, 2).contiguous().transpose(0, 2)
    assert_same(turned, truth, baseline)
    with pytest.raises(AssertionError, match="strides"):
        assert_same(turned, truth, baseline, strides=True)


def test_rejects_another_dtype():
    truth, baseline, actual = case()
    with pytest.raises(AssertionError, match=r"dtype torch\.float64, expected torch\.float32"):
        assert_same(actual.double(), truth, baseline)
    with pytest.raises(AssertionError, match=r"expected torch\.bfloat16"):
        assert_same(actual, truth, dtype=torch.bfloat16)


def test_rejects_another_shape():
    truth, baseline, actual = case()
    with pytest.raises(AssertionError, match="shape"):
        assert_same(actual[:1], truth, baseline)


def test_the_truth_is_float64():
    truth, baseline, actual = case()
    with pytest.raises(TypeError, match="float64"):
        assert_same(actual, truth.float(), baseline)


def test_scale_is_for_sums_that_cancel():
    truth = torch.tensor([1e-9], dtype=torch.float64)
    actual = torch.tensor([1e-7])
    with pytest.raises(AssertionError):
        assert_same(actual, truth)
    assert_same(actual, truth, scale=torch.tensor([1.0]))
    with pytest.raises(AssertionError):
        assert_same(actual + 1e-5, truth, scale=torch.tensor([1.0]))


def test_channel_dim():
    truth = torch.tensor([[1.0, 1e6], [1.0, 1e6]], dtype=torch.float64)
    actual = truth.float()
    actual[0, 0] += 0.01
    assert compare(actual, truth).bad == [0]
    assert compare(actual, truth, channel_dim=0).bad == []


def test_empty():
    assert_same(torch.zeros(0, 3), torch.zeros(0, 3).double(), torch.zeros(0, 3), strides=True)
