"""Secrets do not get into what is written down."""

import pytest

from vitscale.config.redaction import HIDDEN, redact_table, redact_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:pass@host:5000/x", "http://***@host:5000/x"),
        ("s3://bucket/a?token=abc&part=2", "s3://bucket/a?token=***&part=2"),
        ("got ghp_" + "a" * 36, "got ***"),
        ("sqlite:////home/me/runs/mlflow.db", "sqlite:////home/me/runs/mlflow.db"),
        ("mail me@host", "mail me@host"),
    ],
)
def test_text_keeps_everything_but_the_secret(text, shown):
    assert redact_text(text, {}) == shown


def test_values_of_secret_environment_variables_are_hidden_wherever_they_appear():
    environment = {"MLFLOW_TRACKING_PASSWORD": "correct-horse", "PWD": "/work", "SHORT_TOKEN": "on"}
    assert redact_text("login correct-horse on /work", environment) == "login *** on /work"


def test_tables_hide_by_key_at_any_depth_and_keep_what_only_sounds_secret():
    table = {"a": {"api_key": "1", "tokens": 197}, "list": ["http://u:p@h"], "auth.token": 5}
    assert redact_table(table) == {
        "a": {"api_key": "***", "tokens": 197},
        "list": ["http://***@h"],
        "auth.token": "***",
    }


def test_a_switch_whose_name_sounds_secret_is_shown():
    """`model.cls_token` says whether there is a CLS token, and a saved recipe must be readable again."""
    table = {
        "model": {"cls_token": True},
        "other": {"cls_token": None, "token": "abc", "password": 12345678},
    }
    shown = redact_table(table)
    assert shown["model"] == {"cls_token": True}
    assert shown["other"] == {"cls_token": None, "token": HIDDEN, "password": HIDDEN}
