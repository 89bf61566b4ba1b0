"""The configuration: what it takes, what it refuses, and how it says so."""

from pathlib import Path

import pytest
import yaml

from adar_ray.config import Config, explained, load_config, note_on_unused, parse_metric, search_range
from adar_ray.errors import LONGEST_MESSAGE, AdarError
from adar_ray.registry import LOSSES, MODELS, SAMPLERS, settings_blocks


def write(folder: Path, text: str) -> Path:
    file = folder / "job.yaml"
    file.write_text(text)
    return file


def refusal(file: Path | None = None, *settings: str) -> str:
    with pytest.raises(AdarError) as caught:
        load_config(file, settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_without_anything_the_defaults_hold():
    config = load_config()
    assert config == load_config(settings=["model.name=lightgcn"])
    assert config.component_names() == ["lightgcn", "sampled_softmax", "adar"]
    assert (config.adar.beta, config.adar.gamma) == (0.9, 1)
    assert (config.adar.candidates, config.adar.negatives) == (16, 4)
    assert (config.model.cosine, config.sampled_softmax.temperature) == (True, "auto")
    assert (config.optimizer.lr, config.loss.l2) == (5e-3, 0)


def test_a_file_changes_what_it_names_and_leaves_the_rest(tmp_path):
    file = write(tmp_path, "model:\n  name: lightgcn\nlightgcn:\n  layers: 3\nadar:\n  beta: 0.7\n")
    config = load_config(file)
    assert (config.model.name, config.lightgcn.layers, config.adar.beta) == ("lightgcn", 3, 0.7)
    assert (config.model.embedding_dim, config.adar.candidates) == (64, 16)
    assert config.train == Config().train


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "model:\n", "{}"])
def test_a_file_may_say_nothing(tmp_path, text):
    assert load_config(write(tmp_path, text)) == load_config()


def test_settings_go_over_the_file_and_the_last_one_wins(tmp_path):
    file = write(tmp_path, "train:\n  epochs: 5\n  seed: 3\nmodel:\n  embedding_dim: 16\n")
    config = load_config(file, ["train.epochs=7", "model.embedding_dim=8", "model.embedding_dim=32"])
    assert (config.train.epochs, config.train.seed, config.model.embedding_dim) == (7, 3, 32)


def test_values_go_over_the_file_and_settings_over_values(tmp_path):
    file = write(tmp_path, "train: {epochs: 5, seed: 3, patience: 2}")
    train = load_config(file, ["train.epochs=7"], {"train": {"epochs": 6, "seed": 4}}).train
    assert (train.epochs, train.seed, train.patience) == (7, 4, 2)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *(("1e-3", 0.001), ("1E-3", 0.001), ("2.5e-4", 0.00025), ("3.e-2", 0.03), ("+1e-3", 0.001)),
        *(("1e+1", 10), ("5e0", 5), ("0.5", 0.5), (".5", 0.5), ("2", 2)),
    ],
)
def test_numbers_are_read_as_people_write_them(tmp_path, text, number):
    assert load_config(settings=[f"optimizer.lr={text}"]).optimizer.lr == number
    assert load_config(write(tmp_path, f"optimizer:\n  lr: {text}\n")).optimizer.lr == number


def test_a_whole_number_may_be_written_with_an_exponent(tmp_path):
    assert load_config(settings=["train.batch_size=1e4"]).train.batch_size == 10_000
    assert load_config(write(tmp_path, "train: {batch_size: 1e4}")).train.batch_size == 10_000


def test_values_of_every_kind():
    settings = ["model.cosine=true", "sampler.mask_seen=false", "adar.gamma=0.5", "train.metric=recall@10"]
    config = load_config(settings=settings)
    assert (config.model.cosine, config.sampler.mask_seen) == (True, False)
    assert (config.adar.gamma, config.train.metric) == (0.5, "recall@10")


# Refusals


@pytest.mark.parametrize(
    ("setting", "nearest"),
    [
        ("modle.dim=3", "did you mean model?"),
        ("optimiser.lr=1", "did you mean optimizer?"),
        ("model.embedding_dims=3", "did you mean model.embedding_dim?"),
        ("adar.Beta=0.5", "did you mean adar.beta?"),
        ("train.lr=0.1", "did you mean optimizer.lr?"),
        ("model.epochs=3", "did you mean train.epochs?"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(tmp_path, setting, nearest):
    message = refusal(None, setting)
    assert setting in message
    assert message.endswith(nearest)
    section, _, rest = setting.partition(".")
    key, _, value = rest.partition("=")
    file = write(tmp_path, f"{section}:\n  {key}: {value}\n")
    message = refusal(file)
    assert message.startswith(str(file))
    assert message.endswith(nearest)


def test_a_name_like_no_other_is_answered_with_all_there_are():
    assert all(section in refusal(None, "qqqqqq.dim=3") for section in Config.model_fields)


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("model.embedding_dim=0", "model.embedding_dim"),
        ("model.embedding_dim=many", "model.embedding_dim"),
        ("model.embedding_dim=1.5", "model.embedding_dim"),
        ("model.name=svd", "model.name"),
        ("adar.beta=1.5", "adar.beta"),
        ("adar.beta=", "adar.beta"),
        ("ahns.p=-0.9", "ahns.p"),
        ("optimizer.lr=-0.5", "optimizer.lr"),
        ("optimizer.lr=[1, 2]", "optimizer.lr"),
        ("train.metric=ndgc@20", "train.metric"),
        ("train.seed=-1", "train.seed"),
        ("train.epochs=true", "train.epochs"),
        ("adar.beta=true", "adar.beta"),
        ("sampled_softmax.temperature=true", "sampled_softmax.temperature"),
    ],
)
def test_a_wrong_value_is_answered_with_its_key_and_the_value(tmp_path, setting, key):
    value = setting.partition("=")[2]
    assert key in refusal(None, setting)
    section, name = key.split(".")
    message = refusal(write(tmp_path, f"{section}:\n  {name}: {value}\n"))
    assert key in message
    assert value.lower() in message.replace("'", "").lower()


@pytest.mark.parametrize("setting", ["model.embedding_dim", "dim=3", "=3", "model.=3", ""])
def test_a_setting_of_another_form_is_answered_with_the_form(setting):
    assert "section.key=value" in refusal(None, setting)


def test_a_value_that_is_no_yaml(tmp_path):
    assert "--set model.embedding_dim=[1" in refusal(None, "model.embedding_dim=[1")
    file = write(tmp_path, "model: [1\n")
    assert refusal(file).startswith(f"{file}: is not valid YAML")


@pytest.mark.parametrize("text", ["- model\n", "just words\n", "3\n"])
def test_a_file_without_sections(tmp_path, text):
    assert "no sections" in refusal(write(tmp_path, text))


@pytest.mark.parametrize("text", ["model: 3\n", "model: mf\n", "model: [1, 2]\n"])
def test_a_section_without_keys(tmp_path, text):
    assert "section model" in refusal(write(tmp_path, text))


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    assert "missing.yaml: cannot be read" in refusal(tmp_path / "missing.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00model")
    assert "binary.yaml" in refusal(binary)


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("adar.candidates=2001-99-99", "adar.candidates: give a whole number"),
        ("loss.l2=!!timestamp 1", "leave out the tag !!timestamp"),
        ("loss.l2=.inf", "loss.l2: Input should be a finite number"),
        ("loss.l2=.nan", "loss.l2: Input should be"),
        ("adar.weight='1e999'", "adar.weight: Input should be a finite number"),
        ("train.seed=" + "9" * 5000, "is too long"),
        ("train.metric=ndcg@" + "9" * 5000, "train.metric"),
        ("train.metric=ndcg@020", "train.metric"),
        ("custom.a=" + "[" * 20_000, "nested more than 32 levels deep"),
        ("custom.a={b: 1, b: 2}", "the key b is there twice"),
        ("custom.\udc80=1", "section.key=value"),
        ("model.name=..:mf", "there is no model"),
        ("model.embedding_dim=1e15", "model.embedding_dim: Input should be less than or equal to 65536"),
        ("adar.pool=1e12", "adar.pool: Input should be less than or equal to 1048576"),
        ("adar.gamma=0.49", "adar.gamma: Input should be greater than or equal to 0.5"),
        ("adar.gamma=1.01", "adar.gamma: Input should be less than or equal to 1"),
        *(
            (f"{loss}.temperature={value}", f"{loss}.temperature: give auto, or a number above 0")
            for loss in ("sampled_softmax", "cross_entropy")
            for value in ("0", "-0.1", "1e7")
        ),
        ("train.batch_size=1e12", "train.batch_size: Input should be less than or equal to"),
        ("train.valid_users=1e12", "train.valid_users: Input should be less than"),
    ],
    ids=lambda text: ascii(text[:30]),
)
def test_a_value_that_nothing_can_mean_is_refused(setting, problem):
    assert problem in refusal(None, setting)


def test_a_long_file_is_not_quoted_back(tmp_path):
    for text in (
        "a: " + "x" * 50_000,
        "model: [" + "x, " * 9000 + "]",
        "model: {name: " + "x" * 50_000 + "}",
    ):
        assert len(refusal(write(tmp_path, text))) <= LONGEST_MESSAGE


def test_what_does_not_go_together_is_said():
    message = refusal(None, "loss.name=bpr", "sampler.name=all")
    assert "loss.name" in message
    assert "cross_entropy" in message
    assert load_config(settings=["loss.name=cross_entropy", "sampler.name=all"]).sampler.name == "all"


def test_only_models_with_a_table_of_items_share_it_out():
    able = "mf, twotower, neumf, gru4rec, sasrec, bert4rec, fmlprec"
    for name in able.split(", "):
        load_config(settings=["model.tables=sharded", f"model.name={name}"])
    for name in ("lightgcn", "ngcf", "simgcl", "my_models:build"):
        message = refusal(None, f"model.name={name}", "model.tables=sharded")
        assert message.endswith(f"model.tables sharded goes with model.name {able}, not {name}")
    message = refusal(None, "model.name=mf", "loss.name=cross_entropy", "model.tables=sharded")
    assert message.endswith(
        "model.tables sharded does not go with loss.name cross_entropy, which takes all items: use "
        "sampled_softmax"
    )


def test_more_negatives_than_srns_remembers_are_refused():
    message = refusal(None, "srns.negatives=9", "srns.memory=8")
    assert message == (
        "--set srns.memory=8: srns: negatives 9 is more than memory 8, among which they are chosen"
    )
    load_config(settings=["sampler.name=srns", "srns.negatives=8", "srns.memory=8"])


def test_more_hard_candidates_than_candidates_are_refused():
    assert "top 17 is more than candidates 16" in refusal(None, "dns.top=17")
    load_config(settings=["dns.top=17", "dns.candidates=17"])


@pytest.mark.parametrize("name", ["sasrec", "bert4rec"])
def test_heads_have_to_divide_the_embedding_dimension_of_the_model_that_is_chosen(name):
    settings = (f"{name}.heads=3", "model.embedding_dim=64")
    assert "64 is not a multiple of heads 3" in refusal(None, f"model.name={name}", *settings)
    load_config(settings=settings)


# Components


def test_every_component_can_be_chosen_and_its_block_is_explained():
    for section, components in (("model", MODELS), ("loss", LOSSES), ("sampler", SAMPLERS)):
        for name, component in components.items():
            settings = ["model.name=ngcf", f"{section}.name={name}"]  # which has no defaults of its own
            if name == "all":
                settings.append("loss.name=cross_entropy")
            used = load_config(settings=settings).used()
            assert used[section]["name"] == name
            assert used.get(name, {}) == component.settings().model_dump()


def test_only_the_blocks_that_have_an_effect_are_written():
    assert set(Config().used()) == {
        "data",
        "model",
        "lightgcn",
        "loss",
        "sampler",
        "adar",
        "optimizer",
        "train",
        "checkpoints",
    }
    joined = load_config(settings=["loss.name=bce", "adar.joins=popularity"])
    assert joined.sampler_names() == ["popularity", "adar"]
    assert set(joined.used()) - set(Config().used()) == {"popularity"}
    full = load_config(settings=["loss.name=cross_entropy"])
    assert full.sampler_names() == ["all", "adar"]
    assert load_config(settings=["custom.depth=3"]).used()["custom"] == {"depth": 3}


# Defaults of a model


def test_a_sequential_model_has_defaults_of_its_own_and_they_are_shown(tmp_path):
    for name in ("gru4rec", "sasrec", "bert4rec", "fmlprec"):
        config = load_config(settings=[f"model.name={name}"])
        assert config.train.batch_size < Config().train.batch_size
        assert config.loss.name != Config().loss.name
        shown = yaml.safe_load(explained(config))
        assert shown == config.used()
        for path, value in MODELS[name].defaults.items():
            section, key = path.split(".")
            assert shown[section][key] == value
        # Everything else is as with a model that has none.
        own = [f"{path}={value}" for path, value in MODELS[name].defaults.items()]
        plain = load_config(settings=["model.name=neumf", *own])
        assert config.model_copy(update={"model": plain.model}) == plain
    for name in ("mf", "neumf", "ngcf", "lightgcn", "simgcl", "my.module:thing"):
        assert load_config(settings=[f"model.name={name}"]).train == Config().train


def test_what_is_set_anywhere_takes_the_place_of_a_models_default(tmp_path):
    file = write(tmp_path, "train: {batch_size: 2048}\nloss:\n  l2: 0\n")
    default = load_config(settings=["model.name=sasrec"])
    config = load_config(file, ["model.name=sasrec"])
    assert (config.train.batch_size, config.loss.name) == (2048, default.loss.name)
    config = load_config(file, ["loss.name=bpr"], {"model": {"name": "sasrec"}, "train": {"batch_size": 512}})
    assert (config.train.batch_size, config.loss.name) == (512, "bpr")
    settings = ["train.batch_size=7", "model.name=sasrec"]
    assert load_config(settings=settings) == load_config(settings=settings[::-1])
    assert load_config(settings=settings).train.batch_size == 7
    file = write(tmp_path, "model: {name: sasrec}\n")
    assert load_config(file) == default
    assert load_config(file, ["model.name=lightgcn"]) == load_config()


def test_every_default_of_a_model_is_one_of_another_key_and_can_be_set():
    for name, model in MODELS.items():
        for path, value in model.defaults.items():
            assert path != "model.name"
            settings = [f"model.name={name}", f"{path}={value}"]
            replaced = any(path in values for values in model.defaults_with_loss.values())
            assert replaced or load_config(settings=settings) == load_config(settings=settings[:1])
        for loss, values in model.defaults_with_loss.items():
            settings = [f"model.name={name}", f"loss.name={loss}"]
            own = [f"{path}={value}" for path, value in values.items()]
            assert load_config(settings=[*settings, *own]) == load_config(settings=settings)


def test_a_default_that_goes_with_a_loss_holds_with_that_alone():
    pairwise = load_config(settings=["loss.name=bpr"])
    assert (pairwise.model.cosine, pairwise.optimizer.lr, pairwise.loss.l2) == (False, 3e-3, 1e-3)
    of_mf = load_config(settings=["model.name=mf"])
    assert (of_mf.model.cosine, of_mf.loss.l2, of_mf.optimizer.lr) == (True, 0, 1e-2)
    pairwise = load_config(settings=["model.name=mf", "loss.name=bpr"])
    assert (pairwise.model.cosine, pairwise.optimizer.lr, pairwise.loss.l2) == (False, 3e-3, 1e-2)
    chosen = load_config(settings=["loss.name=sampled_softmax", "optimizer.lr=0.5"])
    assert chosen == load_config(settings=["optimizer.lr=0.5"])
    assert not load_config(settings=["model.cosine=false"]).model.cosine
    other = load_config(settings=["model.name=ngcf", "loss.name=sampled_softmax"])
    assert (other.model.cosine, other.optimizer.lr) == (Config().model.cosine, Config().optimizer.lr)


# Components


@pytest.mark.parametrize("section", ["model", "loss", "sampler"])
def test_a_component_is_known_or_custom(section):
    known = {"model": "mf", "loss": "bpr", "sampler": "adar"}[section]
    assert known in refusal(None, f"{section}.name=xyzzy")
    assert (
        load_config(settings=[f"{section}.name=my.module:thing"]).used()[section]["name"] == "my.module:thing"
    )


def test_every_search_range_can_be_searched():
    for name, block in settings_blocks().items():
        for key in block.model_fields:
            distribution = search_range(f"{name}.{key}")
            if distribution is not None:
                for value in distribution[next(iter(distribution))][:2]:
                    load_config(values={name: {key: value}})
    assert search_range("adar.beta") == {"uniform": [0.5, 0.95]}
    assert search_range("train.seed") is None


def test_a_configuration_cannot_be_changed_by_accident():
    with pytest.raises(ValueError, match="frozen"):
        load_config().model.embedding_dim = 3


# Round trips


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["optimizer.lr=1e-5", "loss.l2=0", "adar.gamma=0.75", "model.cosine=true", "train.metric=map@5"],
        ["optimizer.lr=1e-12", "adar.weight=1e6", "train.seed=2147483647", "loss.name=bce"],
    ],
)
def test_the_explained_configuration_reads_back_as_the_same(tmp_path, settings):
    config = load_config(settings=settings)
    text = explained(config)
    assert load_config(write(tmp_path, text)) == config
    for name, values in config.used().items():
        fields = type(getattr(config, name)).model_fields
        for key in values:
            assert f"  # {fields[key].description}\n  {key}: " in text, f"{name}.{key}"


@pytest.mark.parametrize("name", [*MODELS, *SAMPLERS])
def test_the_explained_block_of_every_component_reads_back(tmp_path, name):
    chosen = f"{'model' if name in MODELS else 'sampler'}.name={name}"
    config = load_config(settings=[chosen, f"loss.name={'cross_entropy' if name == 'all' else 'bpr'}"])
    assert load_config(write(tmp_path, explained(config))) == config


def test_a_runs_own_configuration_can_start_another(tmp_path):
    config = load_config(settings=["model.embedding_dim=8", "optimizer.lr=1e-5"])
    about = {"dataset": "/data", "dataset_checksum": "ab", "workers": 2, "versions": {"python": "3.11"}}
    file = write(tmp_path, yaml.safe_dump({"run": about, **config.used()}, sort_keys=False))
    assert load_config(file) == config


# Metrics by name


def test_a_metrics_name_is_parsed():
    assert parse_metric("ndcg@20") == ("ndcg", 20)
    assert parse_metric("hit_rate@1") == ("hit_rate", 1)
    assert parse_metric("my.metrics:spread@5") == ("my.metrics:spread", 5)


@pytest.mark.parametrize(
    "metric",
    [
        "ndcg@\u0665",
        "ndcg@07",
        "ndcg@10000000",
        "ndcg",
        "ndcg@",
        "ndcg@0",
        "ndcg@-1",
        "ndcg@1.5",
        "auc@5",
        "my_metrics:spread",
        "my_metrics:@5",
        "@5",
        "",
        "ndcg@ 5",
    ],
)
def test_what_is_no_metric_is_refused(metric):
    with pytest.raises(ValueError, match="is not a metric"):
        parse_metric(metric)


def test_a_setting_of_what_is_not_in_use_is_noted():
    settings = ["model.name=mf", "sampler.name=uniform", "adar.beta=0.5", "dns.candidates=4", "custom.x=1"]
    config = load_config(settings=settings)
    note = "adar.beta, dns.candidates have no effect here: the component is not in use"
    assert note_on_unused(settings, config) == note
    assert note_on_unused([*settings[:2], *settings[4:]], config) is None
    joined = ["loss.name=bce", "sampler.name=adar", "uniform.negatives=2"]
    assert note_on_unused(joined, load_config(settings=joined)) is None
