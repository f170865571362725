"""The page and the picture of attention weights: right numbers, and a page that loads and runs nothing foreign."""

import base64
import io
import json
import re

import jax
import matplotlib.image
import numpy as np
import pytest
from helpers import tiny_config

from gpt2jax.commands.attending import FULL_TABLE, attention_maps, statistics_table
from gpt2jax.models import make_model
from gpt2jax.report.attention import AttentionReport, attention_page, head_statistics, write_attention

EVIL = '</script><script>alert(1)</script><img src=x onerror=alert(1)>&"\''


def random_maps(layers=2, heads=3, length=5, seed=0):
    maps_NHLL = np.random.default_rng(seed).random((layers, heads, length, length)).astype(np.float32)
    return maps_NHLL / maps_NHLL.sum(-1, keepdims=True)


def make_report(tokens=('a', ' b', '↵', 'c', '<|mask|>'), **options):
    special = [token.startswith('<|') for token in tokens]
    maps = random_maps(length=len(tokens))
    return AttentionReport('run, step 3', list(tokens), special, 'all see all', maps, **options)


@pytest.mark.parametrize('visibility', ['causal', 'full'])
def test_the_rows_of_a_map_sum_to_one_and_hide_what_is_not_seen(visibility):
    model = make_model(tiny_config(model__init__std=0.3).model)
    maps_NHLL = attention_maps(model, model.init(jax.random.key(0)), [256, 5, 6, 7, 8, 9], visibility)
    assert maps_NHLL.shape == (3, 4, 6, 6)
    np.testing.assert_allclose(maps_NHLL.sum(-1), 1, atol=1e-5)
    later_LL = np.triu(np.ones((6, 6), bool), 1)
    assert (maps_NHLL[..., later_LL] == 0).all() == (visibility == 'causal')
    assert (maps_NHLL[..., ~later_LL] > 0).all()


def test_statistics_are_those_of_a_plain_loop():
    maps_NHLL = random_maps()
    maps_NHLL[1, 2] = np.eye(5)
    found = head_statistics(maps_NHLL)
    for layer, head in np.ndindex(2, 3):
        map_LL = maps_NHLL[layer, head].astype(np.float64)
        entropies = [-sum(w * np.log2(w) for w in row if w > 0) for row in map_LL]
        distances = [sum(w * abs(i - j) for j, w in enumerate(row)) for i, row in enumerate(map_LL)]
        expected = {
            'entropy': np.mean(entropies),
            'distance': np.mean(distances),
            'first': np.mean([map_LL[i, 0] for i in range(1, 5)]),
            'itself': np.mean([map_LL[i, i] for i in range(5)]),
            'previous': np.mean([map_LL[i, i - 1] for i in range(1, 5)]),
            'next': np.mean([map_LL[i, i + 1] for i in range(4)]),
        }
        assert {name: values[layer, head] for name, values in found.items()} == pytest.approx(expected, abs=1e-6)
    assert found['entropy'][1, 2] == found['distance'][1, 2] == 0
    assert found['itself'][1, 2] == 1


def test_a_single_token_has_statistics_too():
    found = head_statistics(np.ones((1, 1, 1, 1), np.float32))
    assert {name: float(values[0, 0]) for name, values in found.items()} == pytest.approx(
        {'entropy': 0, 'distance': 0, 'first': 0, 'itself': 1, 'previous': 0, 'next': 0}
    )


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_holds_every_weight():
    report = make_report()
    data = data_of(attention_page(report))
    roots = np.frombuffer(base64.b64decode(data['weights']), np.uint8).reshape(data['shape']) / 255
    np.testing.assert_allclose(roots**2, report.maps, atol=2 / 255)
    assert data['tokens'] == report.tokens
    assert data['special'] == [False, False, False, False, True]
    assert data['statistics']['entropy'] == pytest.approx(head_statistics(report.maps)['entropy'], abs=1e-4)


def test_the_page_loads_nothing():
    page = attention_page(make_report())
    assert not re.findall(r'\w+://|@import|url\(', page)
    assert not re.findall(r'<(link|img|iframe|object|embed|base)\b', page)
    assert not re.findall(r'\b(src|href)=', page)
    assert "default-src 'none'" in page
    assert not re.findall(r'fetch\(|XMLHttpRequest|import\(|eval\(|innerHTML', page)


def test_no_token_becomes_markup():
    page = attention_page(make_report(tokens=('a', EVIL, 'b', 'c', 'd'), note=EVIL))
    assert page.count('<script') == 2
    assert page.count('</script>') == 2
    assert '<img' not in page
    assert data_of(page)['tokens'][1] == EVIL


def test_the_page_and_the_picture_are_written(tmp_path):
    html, png = write_attention(tmp_path / 'run.v2', make_report())
    assert (html.name, png.name) == ('run.v2.html', 'run.v2.png')
    image = matplotlib.image.imread(io.BytesIO(png.read_bytes()), format='png')
    assert min(image.shape[:2]) > 300
    assert image.std() > 0.01, 'the picture is blank'


@pytest.mark.parametrize(('layers', 'rows'), [(2, 6), (FULL_TABLE, FULL_TABLE)])
def test_the_table_of_a_large_model_has_a_row_a_layer(layers, rows):
    table = statistics_table(random_maps(layers))
    assert table.row_count == rows
