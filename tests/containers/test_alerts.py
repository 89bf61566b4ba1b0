"""When each alert fires on synthetic metrics, according to promtool."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.containers.conftest import ROOT, run

pytestmark = pytest.mark.cluster

RULES = ROOT / "docker" / "monitoring" / "alerts.yaml"

# Metrics from minute 0; a minute when the alert is silent, and a minute when it fires, if it does.
CASES = {
    "HeadLost": ({'up{job="ray", node="head"}': "1x9 0x20"}, 11, 13),
    "WorkersLost": (
        {
            'up{job="ray", node="worker", instance="a"}': "1x30",
            'up{job="ray", node="worker", instance="b"}': "1x9 _x20",
        },
        14,
        20,
    ),
    "WorkersLost, all": ({'up{job="ray", node="worker", instance="a"}': "1x9 0x20"}, 14, 20),
    "WorkersLost, all gone": ({'up{job="ray", node="worker", instance="a"}': "1x9 _x20"}, 14, 20),
    "DiskAlmostFull": ({"ray_node_disk_free": "20x9 9x20", "ray_node_disk_usage": "80x9 91x20"}, 14, 16),
    "MemoryAlmostFull": ({"ray_node_mem_used": "85x9 95x20", "ray_node_mem_total": "100x30"}, 14, 16),
    "KilledForMemory": ({'ray_memory_manager_worker_eviction_total{Name="train"}': "_x9 1x20"}, 8, 9),
    "ObjectStoreSpills": ({'ray_object_store_memory{Location="SPILLED"}': "0x9 2048x20"}, 19, 21),
    "WorkWaits": ({'ray_tasks{State="PENDING_NODE_ASSIGNMENT"}': "0x9 3x30"}, 24, 26),
    "TrainingStalls": ({'ray_adar_epoch{run="/data/runs/a"}': "0+0.1x20 2x60"}, 49, 53),
    # The last epoch was saved for five minutes, and then the training was over.
    "TrainingStalls, finished": ({'ray_adar_epoch{run="/data/runs/a"}': "0+0.1x60 6x4 _x60"}, 92, None),
    "GpuIdle": (
        {
            'ray_resources{instance="a", Name="GPU", State="USED"}': "1x90",
            'ray_node_gpus_utilization{instance="a"}': "2x90",
        },
        29,
        31,
    ),
    # Time begins at 0: the night was then, or the folder cannot be asked from minute 10 on.
    "NightFailed": (
        {"adar_ray_night_timestamp_seconds": "0x3000", 'up{job="published"}': "1x3000"},
        36 * 60 + 14,
        36 * 60 + 17,
    ),
    "NightFailed, unknown": ({'up{job="published"}': "1x9 0x40"}, 24, 26),
    "NightFailed, gone": ({'up{job="published"}': "1x9 _x40"}, 24, 31),
    "NoNight": ({'up{job="published"}': "1x3000"}, 36 * 60 - 1, 36 * 60 + 1),
    "NoNight, late": ({"adar_ray_night_timestamp_seconds": "_x2000 0x1000"}, 36 * 60 + 1, None),
    "PublishedIsStale": (
        {"adar_ray_published_timestamp_seconds": "0x12000"},
        8 * 24 * 60 + 14,
        8 * 24 * 60 + 17,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_alert_fires_on_time(case: str, tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool: apt-get install prometheus")
    alert, (series, silent, fires) = case.partition(",")[0], CASES[case]
    counts = [
        {
            "expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)',
            "eval_time": f"{minute}m",
            "exp_samples": [{"labels": "{}", "value": value}],
        }
        for minute, value in ((silent, 0), (fires, 1))
        if minute is not None
    ]
    given = [{"series": name, "values": values} for name, values in series.items()]
    test = {"interval": "1m", "input_series": given, "promql_expr_test": counts}
    file = tmp_path / "case.json"  # JSON is YAML
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}))
    run("promtool", "test", "rules", file)
