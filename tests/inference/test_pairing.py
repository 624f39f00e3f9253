from pathlib import Path

import pytest

from upscale_lit.inference.pairing import match_finished, match_low


def finished(truths: str, pictures: str) -> tuple[dict[str, str], dict[str, str], set[str]]:
    """Return (pairs by the usual rules, pairs that are reported to the user, truths without a pair)."""
    matches, unusual, _ = match_finished(
        [Path(name) for name in truths.split()], [Path(name) for name in pictures.split()], scale=2
    )
    usual = {str(path): str(picture) for path, picture in matches.items() if path not in unusual}
    reported = {str(path): str(matches[path]) for path in unusual}
    return usual, reported, set(truths.split()) - usual.keys() - reported.keys()


@pytest.mark.parametrize(("truths", "pictures", "expected"), [
    ("fox2.png fox4.png", "fox2_SR.png fox4_SR.png", "fox2_SR.png fox4_SR.png"),
    ("fox2.png fox4.png", "fox4.png fox2-x2.png", "fox2-x2.png fox4.png"),
    ("cat.png cat_2.png", "cat_SR.png cat_2_SR.png", "cat_SR.png cat_2_SR.png"),
    ("cat.png cat.jpg", "cat.jpg cat.png", "cat.png cat.jpg"),  # the full name decides first
    ("cat.png", "cat.png cat_SR.png cat.jpg", "cat.png"),
    ("cat.png", "cat.jpg cat_SR.png", "cat.jpg"),
    ("cat.png", "cat_SR.png cat_x2_SR.png", "cat_SR.png"),  # a name with one suffix is preferred to a name with two
    ("Cat.PNG", "Cat.out.jpg", "Cat.out.jpg"),
    ("a.b.png", "a.b.SR.png", "a.b.SR.png"),
    ("baby_HR.png bird_HR.png", "bird_SR.png baby_SR.png", "baby_SR.png bird_SR.png"),
    ("img_001_SRF_2_HR.png", "img_001_SRF_2_SR.png", "img_001_SRF_2_SR.png"),
    ("img_001.png img_2.png", "img_001_SRF_2_SR.png img_2_SRF_2.png", "img_001_SRF_2_SR.png img_2_SRF_2.png"),
    ("0801.png 0802.png", "0801x2.png 0802x2_SR.png", "0801x2.png 0802x2_SR.png"),  # the names of DIV2K
])  # fmt: skip
def test_pairs_by_the_usual_rules(truths: str, pictures: str, expected: str) -> None:
    pairs, reported, left = finished(truths, pictures)
    assert pairs == dict(zip(truths.split(), expected.split(), strict=True))
    assert not reported
    assert not left


@pytest.mark.parametrize(("truths", "pictures"), [
    ("fox2.png", "fox4_SR.png"),
    ("fox.png", "foxx2.png"),  # x2 without a separator is a part of the name
    ("fo.png", "fox2.png"),
    ("img_1.png", "img_2.png"),
    ("img_1.png", "img_10.png"),
    ("img.png", "img_2.png"),  # a number is no suffix: it counts pictures
    ("img_1.png", "img_1_2.png"),
    ("a_x2.png", "a_x4.png"),
    ("day_one.png", "day_two.png"),
    ("0801.png", "0801x4.png"),  # x4 is another scale
    ("cat.png", "cat_SR.png cat_x2.png"),  # two pictures for one truth
    ("cat.png", "cat.jpg cat.webp"),
    ("cat.png cat.jpg", "cat.webp"),  # one picture for two truths
    ("cat.png cat_HR.png", "cat_SR.png"),
    ("_SR.png", "_HR.png"),
])  # fmt: skip
def test_nothing_is_guessed(truths: str, pictures: str) -> None:
    assert finished(truths, pictures) == ({}, {}, set(truths.split()))


def test_other_suffixes_are_reported() -> None:
    pairs, reported, left = finished("cat.png dog.png fox.png", "cat_mynet.png dog-mynet_x2.png fox_SR.png")
    assert pairs == {"fox.png": "fox_SR.png"}
    assert reported == {"cat.png": "cat_mynet.png", "dog.png": "dog-mynet_x2.png"}
    assert not left
    assert finished("cat.png cat_black.png", "cat_black.png")[1:] == ({}, {"cat.png"})  # the pair of cat_black.png


def test_low_pictures() -> None:
    paths = [Path(name) for name in ("a.jpg", "a.png", "b.png", "c.png", "d.png", "0001.png", "x.png")]
    lows = [Path(name) for name in ("a.png", "a.jpg", "b.webp", "c.jpg", "c.webp", "0001x2.png", "d_LR.png", "xx4.png")]
    pairs, unclear = match_low(paths, lows, 2)
    assert {str(path): str(low) for path, low in pairs.items()} == {
        "a.jpg": "a.jpg", "a.png": "a.png", "b.png": "b.webp", "0001.png": "0001x2.png",
    }  # fmt: skip
    assert unclear == {Path("c.png"): [Path("c.jpg"), Path("c.webp")]}
