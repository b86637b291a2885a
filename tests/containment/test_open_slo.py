"""OpenSLO v1 documents: what of them is judged, and a clear no, with the line, to what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aiobs.chaos.containment.spec import read_spec
from aiobs.errors import PlanError

HEAD = """\
boundaries: [{each: aiobs.replica}]
slos:
"""
SLO = """\
  - apiVersion: openslo/v1
    kind: SLO
    metadata:
      name: web-availability
      displayName: Availability of the web
      labels: {team: [a, b]}
    spec:
      description: most requests are answered
      service: web
      indicator:
        metadata: {name: answered}
        spec:
          ratioMetric:
            counter: true
            bad:
              metricSource:
                type: aiobs
                spec: {sli: availability}
            total:
              metricSource:
                type: aiobs
                spec: {sli: availability}
      timeWindow:
        - duration: 1w
          isRolling: false
          calendar: {startTime: 2026-01-01 12:00:00, timeZone: Europe/Berlin}
      budgetingMethod: Occurrences
      alertPolicies: []
      objectives:
        - displayName: Good
          target: 0.995
"""


def read(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "spec.yaml"
    path.write_text(HEAD + text)
    return read_spec(path)


def test_a_full_document_is_read(tmp_path: Path) -> None:
    (slo,) = read(tmp_path, SLO).slos
    assert (slo.name, slo.kind, slo.objective, slo.budget_days) == ("web-availability", "ratio", 0.995, 7.0)


def test_a_target_in_percent_is_a_share(tmp_path: Path) -> None:
    assert read(tmp_path, SLO.replace("target: 0.995", "targetPercent: 99.5")).slos[0].objective == pytest.approx(0.995)


@pytest.mark.parametrize(("old", "new", "at", "says"), [
    ("kind: SLO", "kind: DataSource", "kind:", "only documents of kind SLO stand in `slos`"),
    ("kind: SLO", "kind: SLI", "kind:", "write an SLI into its SLO's `indicator`"),
    ("budgetingMethod: Occurrences", "budgetingMethod: Timeslices", "budgetingMethod:", "use Occurrences: each request"),
    ("budgetingMethod: Occurrences", "budgetingMethod: Often", "budgetingMethod:", "use Occurrences, Timeslices, RatioTimeslices"),
    ("            bad:", "            good:", "good:", "spans are counted by what makes one bad"),
    ("            counter: true", "            rawType: success", "rawType:", "a ratio worked out before tells of none"),
    ("      service: web", "      indicatorRef: answered", "indicatorRef:", "no other document is read"),
    ("                type: aiobs\n", "                metricSourceRef: mine\n                type: aiobs\n", "metricSourceRef:", "write type and spec here"),
    ("          target: 0.995", "          target: 0.995\n          compositeWeight: 2", "compositeWeight:", "composite SLOs are not judged"),
    ("          target: 0.995", "          target: 99.5", "target:", "a share between 0 and 1"),
    ("          target: 0.995", "          value: 3", "displayName: Good", "the share of good spans that is promised"),
    ("duration: 1w", "duration: 30s", "duration:", "seconds belong in `windows`"),
    ("      service: web", "      servise: web", "servise:", "no such field"),
    ("openslo/v1", "openslo/v2alpha", "apiVersion:", "use openslo/v1"),
])  # fmt: skip
def test_what_is_not_judged_is_refused_with_its_line(tmp_path: Path, old: str, new: str, at: str, says: str) -> None:
    text = SLO.replace(old, new, 1)
    with pytest.raises(PlanError, match=says) as caught:
        read(tmp_path, text)
    lines = (HEAD + text).splitlines()
    line = 1 + next(place for place, one in enumerate(lines) if at in one)
    assert caught.value.field.startswith(f"{tmp_path / 'spec.yaml'}:{line}: slos[0]"), caught.value.field
