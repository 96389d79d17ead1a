"""Uses a served registry as MLflow's users do: `mlflow_client.py URL FOLDER`.

The registry holds three versions of the model `late`, promoted one after the other, the first of which is the champion, and one
of `soon`. FOLDER is where versions are stored, `MODEL/ID/FILE`. The last line of output is `ok`.
"""

import os
import pathlib
import sys
import tempfile

os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "1"

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

url, stored = sys.argv[1], pathlib.Path(sys.argv[2])
mlflow.set_tracking_uri(url)
mlflow.set_registry_uri(url)
client = MlflowClient()


def refused(code, act):
    try:
        act()
    except MlflowException as error:
        assert error.error_code == code, (code, error.error_code, str(error))
        return str(error)
    raise AssertionError(f"{code} was expected")


# Search, by pages and by filters.
assert [model.name for model in client.search_registered_models()] == ["late", "soon"]
assert [model.name for model in client.search_registered_models("name LIKE 's%'")] == ["soon"]
first = client.search_registered_models(max_results=1)
second = client.search_registered_models(max_results=1, page_token=first.token)
assert [model.name for page in (first, second) for model in page] == ["late", "soon"] and not second.token
versions = client.search_model_versions("name = 'late'", order_by=["version_number ASC"])
assert [version.version for version in versions] == ["1", "2", "3"], versions
assert {version.status for version in versions} == {"READY"}
assert versions[0].tags["millstream.revision"] == "10" and float(versions[0].tags["millstream.log_loss"]) == 0.5
assert versions[0].creation_timestamp < versions[1].creation_timestamp
assert len(client.search_model_versions()) == 4
assert len(client.search_model_versions("name = 'late' AND version_number > 1")) == 2
refused("INVALID_PARAMETER_VALUE", lambda: client.search_model_versions("nme = 'late'"))

# Get.
late = client.get_registered_model("late")
assert late.aliases == {"champion": "1"}, late.aliases
assert [version.version for version in client.get_latest_versions("late")] == ["3"]
champion = client.get_model_version_by_alias("late", "champion")
assert champion.version == "1" and champion.aliases == ["champion"]
assert client.get_model_version("late", "3").tags["millstream.reason"] == "30 examples"
refused("RESOURCE_DOES_NOT_EXIST", lambda: client.get_registered_model("never"))
refused("RESOURCE_DOES_NOT_EXIST", lambda: client.get_model_version("late", "9"))
refused("RESOURCE_DOES_NOT_EXIST", lambda: client.get_model_version_by_alias("late", "nobody"))
refused("INVALID_PARAMETER_VALUE", lambda: client.get_model_version("late", "latest"))

# Alias, tag, describe.
client.set_registered_model_alias("late", "challenger", "2")
client.set_registered_model_alias("late", "champion", "3")
assert client.get_registered_model("late").aliases == {"challenger": "2", "champion": "3"}
client.delete_registered_model_alias("late", "challenger")
refused("RESOURCE_DOES_NOT_EXIST", lambda: client.delete_registered_model_alias("late", "challenger"))
refused("INVALID_PARAMETER_VALUE", lambda: client.set_registered_model_alias("late", "a b", "2"))
client.set_model_version_tag("late", "2", "stage", "live, or so")
assert client.get_model_version("late", "2").tags["stage"] == "live, or so"
assert len(client.search_model_versions("tags.stage LIKE 'live%'")) == 1
client.delete_model_version_tag("late", "2", "stage")
assert "stage" not in client.get_model_version("late", "2").tags
refused("INVALID_PARAMETER_VALUE", lambda: client.set_model_version_tag("late", "2", "millstream.id", "another"))
client.set_registered_model_tag("late", "team", "sky")
client.update_registered_model("late", "Delays of flights.")
client.update_model_version("late", "2", "The second.")
late = client.get_registered_model("late")
assert (late.tags, late.description) == ({"team": "sky"}, "Delays of flights.")
assert client.get_model_version("late", "2").description == "The second."
client.delete_registered_model_tag("late", "team")
assert client.get_registered_model("late").tags == {}

# Download: bit for bit what is stored.
for uri in ("models:/late@champion", "models:/late/3", "models:/late/latest"):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
        there = stored / "late" / client.get_model_version("late", "3").tags["millstream.id"]
        names = sorted(file.name for file in there.iterdir())
        assert names == sorted(file.name for file in path.iterdir()), (names, list(path.iterdir()))
        for name in names:
            assert (path / name).read_bytes() == (there / name).read_bytes(), name
with tempfile.TemporaryDirectory() as folder:
    path = mlflow.artifacts.download_artifacts("models:/late/1/model.json", dst_path=folder)
    assert pathlib.Path(path).name == "model.json"
files = mlflow.artifacts.list_artifacts("models:/late/1")
assert {file.path for file in files} >= {"model.json", "metadata.json", "checksums.b3"}, files

# What makes no sense here says what does.
assert "promote" in refused("PERMISSION_DENIED", lambda: client.create_registered_model("new"))
assert "millstream models delete" in refused("PERMISSION_DENIED", lambda: client.delete_model_version("late", "1"))
assert "alias" in refused("PERMISSION_DENIED", lambda: client.transition_model_version_stage("late", "1", "Production"))
refused("PERMISSION_DENIED", lambda: client.rename_registered_model("late", "early"))
print("ok")
