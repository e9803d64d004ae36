"""The encoder against Sentence Transformers, whole and cut, and what freezing and dropout reach."""

import json
import re
import shutil
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Normalize,
    Pooling,
    Router,
    StaticEmbedding,
    Transformer,
)
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from nic_ray.errors import InputError
from nic_ray.model import base
from nic_ray.model.activations import feed, frozen_inputs, token_inputs, upper_for
from nic_ray.model.base import load
from nic_ray.model.blocks import MeanPooling, QuickDropout, UnitLength
from nic_ray.model.cut import blocks_of, set_dropout, sharing_weights
from nic_ray.model.encoder import (
    base_weights,
    check_frozen_layers,
    for_cosine,
    lower,
    token_limit,
    tokenize,
    upper,
    weights_at,
    with_weights,
)
from nic_ray.model.evaluation import embed
from nic_ray.tokens import Prompts
from nic_ray.train_config import PromptsConfig
from tests.families import BLOCKS, FAMILIES

TEXTS = [
    "Replace the pumps rotor when it is leaking.",
    "my dial is hot",
    "x",
    "what to do about a stuck handset? " * 5,
]
UNCUT = [name for name, each in FAMILIES.items() if each.uncut and each.kind != "albert"]


@pytest.fixture(scope="session")
def base_of(family_model, tiny_model):
    """`base_of(kind)`: a model of `FAMILIES` or a `tiny_model` of three blocks."""
    return lambda kind: family_model(kind) if kind in FAMILIES else tiny_model(kind, 3)


def padded(encoder, texts=TEXTS) -> tuple[Tensor, Tensor]:
    """Ids and mask as Hugging Face's own tokenizer pads them."""
    rows = encoder.model.tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
    return rows["input_ids"], rows["attention_mask"]


def assert_embeds_as_the_whole(encoder, depth: int) -> None:
    expected = encoder.model.encode(TEXTS, convert_to_tensor=True)
    ids, mask = padded(encoder)
    from_ids = upper(encoder, depth, from_ids=True).eval()(ids, mask).detach()
    torch.testing.assert_close(from_ids, expected, atol=1e-5, rtol=0)
    if encoder.can_be_cut and depth:
        hidden = lower(encoder, 0, depth)(ids, mask)
        assert hidden.shape[:2] == ids.shape
        in_two = upper(encoder, depth).eval()(hidden, mask).detach()
        torch.testing.assert_close(in_two, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("model_type", ["bert", "mpnet"])
def test_a_model_of_many_blocks_is_cut_near_its_top(tiny_model, model_type):
    encoder = load(str(tiny_model(model_type, 36)))
    assert encoder.can_be_cut
    for depth in (24, 35):
        assert_embeds_as_the_whole(encoder, depth)


def step_with_decay(part, encoder) -> None:
    """One optimizer step that moves whatever can move."""
    part.train()
    optimizer = torch.optim.AdamW([value for value in part.parameters() if value.requires_grad], lr=0.01)
    part(*padded(encoder)).square()[:, 0].sum().backward()
    optimizer.step()


def weights_of(transformer: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in transformer.named_parameters()}


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("model_type", ["bert", "mpnet", "xlm-roberta"])
def test_lower_and_upper_give_what_sentence_transformers_gives(tiny_model, model_type, depth):
    encoder = load(str(tiny_model(model_type, 3)))
    assert (encoder.can_be_cut, encoder.blocks) == (True, 3)
    assert_embeds_as_the_whole(encoder, depth)


def test_lower_and_upper_of_the_packaged_model_give_what_sentence_transformers_gives():
    encoder = load("all-MiniLM-L6-v2")
    assert (encoder.can_be_cut, encoder.blocks) == (True, 6)
    for depth in range(6):
        assert_embeds_as_the_whole(encoder, depth)


def test_a_lower_part_may_start_where_another_ends(tiny_model):
    encoder = load(str(tiny_model("mpnet", 3)))
    ids, mask = padded(encoder)
    at_once, first = lower(encoder, 0, 2)(ids, mask), lower(encoder, 0, 1)(ids, mask)
    torch.testing.assert_close(lower(encoder, 1, 2)(first, mask)[mask.bool()], at_once[mask.bool()])


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("kind", UNCUT)
def test_a_model_that_cannot_be_cut_embeds_all_the_same(family_model, kind, depth):
    encoder = load(str(family_model(kind)))
    assert (encoder.can_be_cut, encoder.blocks) == (False, BLOCKS)
    assert_embeds_as_the_whole(encoder, depth)
    with pytest.raises(ValueError, match="cannot be cut"):
        lower(encoder, 0, 1)


@pytest.mark.parametrize("depth", [0, 1, 2])
@pytest.mark.parametrize("kind", ["DistilBERT", "ModernBERT", *UNCUT])
def test_a_model_of_another_family_trains_its_upper_blocks_only(family_model, kind, depth):
    encoder = load(str(family_model(kind)))
    part = upper(encoder, depth, from_ids=True)
    before = weights_of(part.transformer)
    step_with_decay(part, encoder)
    changed = {name for name, value in part.transformer.named_parameters() if not torch.equal(value, before[name])}
    blocks = {name: re.search(r"\blayers?\.(\d+)\.", name) for name in before}
    expected = {name for name, block in blocks.items() if depth == 0 or (block and int(block[1]) >= depth)}
    assert changed == expected


@pytest.mark.parametrize("kind", ["DistilBERT", "T5 encoder", *UNCUT])
def test_no_dropout_runs_below_the_trained_blocks_of_a_model_of_another_family(family_model, kind):
    encoder = load(str(family_model(kind)))
    part = upper(encoder, BLOCKS - 1).train()
    top = set(blocks_of(getattr(part.transformer, "model", part.transformer))[BLOCKS - 1].modules())
    trains = {each for each in part.transformer.modules() if each.training}
    assert trains == top


def test_a_frozen_part_runs_without_dropout_and_without_gradient(tiny_model):
    encoder = load(str(tiny_model("bert", 3)))
    part = upper(encoder, 2, from_ids=True)
    set_dropout(part, attention=0.5, hidden=0.5)
    part.train()
    assert [each.training for each in part.lower.modules()] == [False] * len(list(part.lower.modules()))
    assert all(each.training for each in part.transformer.modules())
    assert not part.lower(*padded(encoder)).requires_grad


@pytest.mark.parametrize("model_type", ["bert", "mpnet", "xlm-roberta"])
@pytest.mark.parametrize("depth", [0, 1, 2])
def test_only_parameters_above_the_cut_require_a_gradient(tiny_model, model_type, depth):
    encoder = load(str(tiny_model(model_type, 3)))
    expected = []
    for name, value in encoder.transformer.named_parameters():
        block = int(name.split(".")[2]) if name.startswith("encoder.layer.") else -1
        if block >= depth if depth else "pooler" not in name:
            first = block - depth if encoder.plain else block
            expected.append((name.replace(f"layer.{block}.", f"layer.{first}."), value))
    part = upper(encoder, depth, from_ids=True)
    found = {
        name.replace("transformer.model.", "transformer."): value
        for name, value in part.named_parameters()
        if value.requires_grad
    }
    assert list(found) == [f"transformer.{name}" for name, _ in expected]
    assert all(torch.equal(one, other) for one, (_, other) in zip(found.values(), expected, strict=True))


@pytest.mark.parametrize("kind", ["bert", "mpnet", "DistilBERT"])
@pytest.mark.parametrize("depth", [0, 1])
def test_trained_weights_in_a_copy_of_the_encoder_embed_as_the_part_that_was_trained(base_of, kind, depth):
    encoder = load(str(base_of(kind)))
    before = encoder.model.encode(TEXTS)
    part = upper(encoder, depth, from_ids=True)
    step_with_decay(part, encoder)
    tuned = with_weights(encoder, depth, part.trained_state())
    found = tuned.model.encode(TEXTS, convert_to_tensor=True)
    torch.testing.assert_close(found, part.eval()(*padded(encoder)).detach(), atol=1e-5, rtol=0)
    assert np.abs(found.numpy() - before).max() > 1e-3
    np.testing.assert_array_equal(encoder.model.encode(TEXTS), before)


@pytest.mark.parametrize("kind", ["bert", "mpnet", "DistilBERT"])
def test_weights_at_a_shallower_cut_have_those_of_the_encoder_between(base_of, kind):
    encoder = load(str(base_of(kind)))
    part = upper(encoder, 2, from_ids=True)
    step_with_decay(part, encoder)
    weights = part.trained_state()
    expected = part.eval()(*padded(encoder)).detach()
    for depth in (2, 1, 0):
        other = upper(encoder, depth, from_ids=True).eval()
        other.load_trained_state(weights_at(encoder, 2, weights, depth))
        torch.testing.assert_close(other(*padded(encoder)).detach(), expected, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=rf"the state has {len(weights)} tensors of another cut, want \d+"):
        weights_at(encoder, 1, weights, 0)
    with pytest.raises(ValueError, match=rf"the state has {len(weights)} tensors of another cut, want \d+"):
        with_weights(encoder, 1, weights)


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("kind", ["bert", "mpnet", "DistilBERT"])
def test_making_and_training_a_copy_changes_nothing_of_the_encoder(base_of, kind, depth):
    encoder = load(str(base_of(kind)))

    def state():
        parts = {name: (id(part), part.training) for name, part in encoder.model.named_modules()}
        values = {
            name: (id(value), value.requires_grad, value._version) for name, value in encoder.model.named_parameters()
        }
        return parts, values

    before = state()
    upper(encoder, depth, from_ids=False).train().requires_grad_(False)
    step_with_decay(upper(encoder, depth, from_ids=True), encoder)
    assert state() == before


@pytest.mark.parametrize("kind", ["bert", "mpnet", "DistilBERT"])
@pytest.mark.parametrize("depth", [0, 1])
def test_a_part_begins_with_the_weights_of_the_encoder_under_the_same_names(base_of, kind, depth):
    encoder = load(str(base_of(kind)))
    expected = base_weights(encoder, depth)
    found = upper(encoder, depth, from_ids=True).trained_state()
    assert list(found) == list(expected)
    own = {value.data_ptr() for value in encoder.model.parameters()}
    for name, value in found.items():
        assert torch.equal(value, expected[name])
        assert expected[name].data_ptr() in own
        assert value.data_ptr() not in own


def test_what_shares_weights_shares_nothing_else(tiny_model):
    encoder = load(str(tiny_model()))
    shared = sharing_weights(encoder.model)
    own, theirs = dict(shared.named_parameters()), dict(encoder.model.named_parameters())
    assert all(own[name] is value for name, value in theirs.items())
    assert not {id(each) for each in shared.modules()} & {id(each) for each in encoder.model.modules()}
    shared.train()
    shared.max_seq_length = 7
    shared[0].auto_model.config._attn_implementation = "eager"
    assert not any(each.training for each in encoder.model.modules())
    assert encoder.model.max_seq_length == 64
    assert encoder.transformer.config._attn_implementation == "sdpa"


def test_a_trained_state_is_put_back_bit_for_bit(tiny_model):
    encoder = load(str(tiny_model()))
    part = upper(encoder, 1, from_ids=True)
    kept = {name: value.clone() for name, value in part.trained_state().items()}
    step_with_decay(part, encoder)
    assert not all(torch.equal(value, kept[name]) for name, value in part.trained_state().items())
    part.load_trained_state(kept)
    assert all(torch.equal(value, kept[name]) for name, value in part.trained_state().items())


def test_the_state_of_another_cut_is_refused(tiny_model):
    encoder = load(str(tiny_model()))
    state = upper(encoder, 1).trained_state()
    with pytest.raises(ValueError, match=rf"the state has {len(state)} tensors of another cut, want \d+"):
        upper(encoder, 0).load_trained_state(state)


DROPOUTS = {
    "bert": ("attention_probs_dropout_prob", "hidden_dropout_prob"),
    "mpnet": ("attention_probs_dropout_prob", "hidden_dropout_prob"),
    "xlm-roberta": ("attention_probs_dropout_prob", "hidden_dropout_prob"),
    "DistilBERT": ("attention_dropout", "dropout"),
}


@pytest.mark.parametrize("kind", DROPOUTS)
def test_dropout_is_set_where_transformers_would_set_it(base_of, kind):
    encoder = load(str(base_of(kind)))
    config = type(encoder.transformer.config)(**encoder.transformer.config.to_dict())
    for name, share in zip(DROPOUTS[kind], (0.3, 0.2), strict=True):
        setattr(config, name, share)
    expected = {name: each.p for name, each in AutoModel.from_config(config).named_modules() if drops(each)}
    assert set(expected.values()) == {0.3, 0.2}
    part = upper(encoder, 0)
    set_dropout(part, attention=0.3, hidden=0.2)
    assert {name: each.p for name, each in part.transformer.named_modules() if drops(each)} == expected


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("Qwen3", {"attention_dropout": 0.3}),
        ("NomicBERT", {"attention_probs_dropout_prob": 0.3, "hidden_dropout_prob": 0.2}),
    ],
)
def test_dropout_that_a_family_keeps_as_a_number_is_set_too(base_of, kind, names):
    encoder = load(str(base_of(kind)))
    config = type(encoder.transformer.config)(**encoder.transformer.config.to_dict() | names)
    part = upper(encoder, 0)
    set_dropout(part, attention=0.3, hidden=0.2)

    def rates(transformer: nn.Module) -> dict[str, tuple[object, object]]:
        return {
            name: (getattr(each, "attention_dropout", None), getattr(each, "p", None))
            for name, each in transformer.named_modules()
        }

    assert rates(part.transformer) == rates(AutoModel.from_config(config))


def drops(each: nn.Module) -> bool:
    return isinstance(each, nn.Dropout)


@pytest.mark.parametrize(("asked", "limit"), [(8, 8), (64, 64), (500, 64)])
def test_a_text_is_cut_off_at_the_lower_of_both_limits(tiny_model, asked, limit):
    encoder = load(str(tiny_model()))
    assert token_limit(encoder, asked) == limit
    ids, offsets = tokenize(encoder, ["hot " * 300, "hot"], asked)
    assert np.diff(offsets).tolist() == [limit, 3]
    assert ids[limit - 1] == ids[-1] == encoder.model.tokenizer.sep_token_id


def test_token_ids_are_those_of_the_tokenizer_without_padding(tiny_model):
    encoder = load(str(tiny_model()))
    ids, offsets = tokenize(encoder, TEXTS, 64)
    expected, mask = padded(encoder)
    for text in range(len(TEXTS)):
        own = ids[offsets[text] : offsets[text + 1]]
        assert own.tolist() == expected[text][mask[text].bool()].tolist()


def test_many_texts_are_tokenised_some_at_a_time(tiny_model, monkeypatch):
    encoder = load(str(tiny_model()))
    at_once, handed, tokenizer = tokenize(encoder, TEXTS * 5, 64), [], encoder.model.tokenizer

    def some(texts, **options):
        handed.append(len(texts))
        return tokenizer(texts, **options)

    monkeypatch.setattr("nic_ray.model.encoder.TOGETHER", 7)
    counting = replace(encoder, model=SimpleNamespace(tokenizer=some, max_seq_length=encoder.model.max_seq_length))
    found = tokenize(counting, TEXTS * 5, 64)
    assert [each.tolist() for each in found] == [each.tolist() for each in at_once]
    assert [each.dtype for each in found] == [np.int32, np.int64]
    assert max(handed) == 7
    assert sum(handed) == len(TEXTS) * 5


def test_no_texts_have_no_tokens(tiny_model):
    ids, offsets = tokenize(load(str(tiny_model())), [], 64)
    assert (ids.tolist(), offsets.tolist()) == ([], [0])


def test_the_hash_is_of_the_weights_and_not_of_the_file(tiny_model, tmp_path):
    folder = tiny_model()
    shutil.copytree(folder, tmp_path / "same")
    weights = load_file(tmp_path / "same" / "model.safetensors")
    save_file(weights, tmp_path / "same" / "model.safetensors", metadata={"format": "pt", "note": "new"})
    shutil.copytree(folder, tmp_path / "other")
    weights["encoder.layer.0.output.dense.bias"][0] += 1e-3
    save_file(weights, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
    original, same, other = (load(str(each)) for each in (folder, tmp_path / "same", tmp_path / "other"))
    assert original.weights_sha256 == same.weights_sha256 != other.weights_sha256


def test_packaged_weights_of_another_hash_are_refused(monkeypatch):
    monkeypatch.setattr(base, "PACKAGED_SHA256", "0" * 64)
    with pytest.raises(InputError, match=r"model\.safetensors: SHA-256 is 53aa5117\w+, want 0{64}; install"):
        load("all-MiniLM-L6-v2")


def test_a_folder_named_like_the_packaged_model_goes_before_it(tiny_model, tmp_path, monkeypatch):
    shutil.copytree(tiny_model(), tmp_path / "all-MiniLM-L6-v2")
    monkeypatch.chdir(tmp_path)
    assert load("all-MiniLM-L6-v2").blocks == 2


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no model \(no modules\.json, no config\.json\); name a folder"):
        load(str(tmp_path))


def test_a_file_is_refused(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(InputError, match=r"model\.safetensors: holds no model .*; name a folder"):
        load(str(file))


def test_a_folder_with_broken_weights_is_refused(tiny_model, tmp_path):
    shutil.copytree(tiny_model(), tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(InputError, match=r"broken: not a model that Sentence Transformers can load \(.+\); name"):
        load(str(tmp_path / "broken"))


def test_a_hub_id_that_cannot_be_had_is_refused():
    with pytest.raises(InputError, match=r"no-one/nothing: no such folder, and the model hub does not give it"):
        load("no-one/nothing")


def test_a_model_whose_blocks_share_their_weights_trains_whole(family_model):
    encoder = load(str(family_model("ALBERT")))
    assert (encoder.can_be_cut, encoder.blocks) == (False, 1)
    assert_embeds_as_the_whole(encoder, 0)
    with pytest.raises(InputError, match=r"must be 0 for .*, whose blocks are one or share their weights, got 2"):
        check_frozen_layers(encoder, [0, 2], "space.frozen_layers")


def test_a_model_without_a_transformer_is_refused(tiny_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model()).backend_tokenizer
    static = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu")
    static.save(str(tmp_path / "static"), create_model_card=False)
    with pytest.raises(InputError, match="holds no transformer with a list of blocks; name an encoder such as"):
        load(str(tmp_path / "static"))


@pytest.mark.parametrize("values", [[0], [1], [0, 1, 1]])
def test_depths_that_leave_a_block_to_train_are_let_through(tiny_model, values):
    check_frozen_layers(load(str(tiny_model())), values, "train.frozen_layers")


def test_depths_that_the_model_does_not_have_are_all_named(tiny_model):
    encoder = load(str(tiny_model("bert", 6)))
    message = (
        r"^space\.frozen_layers: must be 0 to 5 for .+, which has 6 blocks, got -1, 6, 12; "
        r"for base models .*, frozen_share counts in shares$"
    )
    with pytest.raises(InputError, match=message):
        check_frozen_layers(encoder, [12, 5, 6, -1, 6, 0], "space.frozen_layers")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pooling_and_normalisation_are_those_of_sentence_transformers(dtype):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(5, 7, 32, generator=generator).to(dtype)
    mask = (torch.arange(7) < torch.tensor([[7], [1], [3], [6], [2]])).long()

    def given() -> dict[str, Tensor]:
        return {"token_embeddings": hidden.clone(), "attention_mask": mask.clone()}

    pooled = Pooling(32, pooling_mode="mean")(given())
    found = MeanPooling()(given())
    rounding = 1e-6 if dtype == torch.float32 else 4e-3  # theirs is rounded to 16 bits at the end
    torch.testing.assert_close(
        found["sentence_embedding"], pooled["sentence_embedding"].float(), rtol=rounding, atol=rounding
    )
    features = {"sentence_embedding": torch.randn(4, 8, generator=generator)}
    expected = Normalize()(dict(features))["sentence_embedding"]
    assert torch.equal(UnitLength()(dict(features))["sentence_embedding"], expected)


@pytest.mark.parametrize(("mode", "kept"), [("mean", MeanPooling), ("cls", Pooling), (("mean", "max"), Pooling)])
def test_a_pooling_that_is_not_the_mean_stays_what_it_is(tiny_model_folder, tmp_path, mode, kept):
    model = SentenceTransformer(str(tiny_model_folder), device="cpu")
    SentenceTransformer(modules=[model[0], Pooling(32, pooling_mode=mode)], device="cpu").save(str(tmp_path / "model"))
    encoder = load(str(tmp_path / "model"))
    part = upper(encoder, 1, from_ids=True)
    assert [type(module) for module in part.tail] == [kept]
    ids, offsets = tokenize(encoder, TEXTS[:1], 64)
    found = part.eval()(torch.from_numpy(ids)[None].long(), torch.ones(1, int(offsets[1])).long())
    np.testing.assert_allclose(found.detach().numpy(), encoder.model.encode(TEXTS[:1]), atol=1e-5)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(share):
    torch.manual_seed(0)
    dropout = QuickDropout(share)
    values = torch.ones(401, 997, requires_grad=True)  # no multiple of four
    found = dropout(values)
    error = (share * (1 - share) / values.numel()) ** 0.5
    assert (found == 0).float().mean().item() == pytest.approx(share, abs=4 * error)
    assert found.unique().tolist() == pytest.approx([0.0, 1 / (1 - share)], rel=1e-3)
    found.backward(torch.full_like(found, 2.0))
    assert torch.equal(values.grad, 2 * found)  # the same values are dropped on the way back
    # neighbours, which share an integer, fall apart from each other
    kept = (found.detach() != 0).double()
    for step in range(1, 5):
        both = (kept[:, step:] * kept[:, :-step]).mean().item()
        assert both == pytest.approx((1 - share) ** 2, abs=0.01)


def test_dropout_repeats_with_its_seed_and_is_off_in_eval_mode():
    values, drawn = torch.randn(3, 5), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(QuickDropout(0.5)(values))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert QuickDropout(0.5).eval()(values) is values
    assert torch.equal(QuickDropout(0.0)(values), values)
    assert not QuickDropout(1.0)(values).any()


@pytest.mark.parametrize("model_type", ["bert", "mpnet", "xlm-roberta"])
def test_what_trains_has_the_quick_dropout_and_the_loaded_model_computes_as_before(tiny_model, model_type):
    encoder = load(str(tiny_model(model_type, 3)))
    before = encoder.model.encode(TEXTS)
    part = upper(encoder, 1)
    assert {type(module) for module in part.modules() if isinstance(module, nn.Dropout)} == {QuickDropout}
    np.testing.assert_array_equal(encoder.model.encode(TEXTS), before)


@pytest.mark.parametrize(("bf16", "fused"), [(True, 0), (False, 3)])
def test_in_bfloat16_on_a_cpu_attention_is_computed_in_plain_steps(tiny_model, monkeypatch, bf16, fused):
    whole = load(str(tiny_model(layers=3)))
    part = upper(whole, 1, from_ids=True).eval()
    ids, mask = torch.tensor([[5, 6, 7, 8], [9, 5, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    calls = []
    real = nn.functional.scaled_dot_product_attention

    def noted(*given, **named):
        calls.append(given)
        return real(*given, **named)

    with torch.no_grad():
        expected = part(ids, mask)
        monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", noted)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            found = part(ids, mask)
    assert len(calls) == fused
    assert whole.transformer.config._attn_implementation == "sdpa"
    torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0)


PROMPTS = {"query": "what is asked: ", "document": "a passage: "}


def by_role(encoder, texts, is_query, max_tokens=64):
    """(n, D) embeddings of texts, each by itself, from their token ids on."""
    ids, offsets = tokenize(encoder, texts, max_tokens, is_query)
    whole = upper(encoder, 0).eval()
    rows = [torch.tensor(ids[start:stop].astype(np.int64))[None] for start, stop in pairwise(offsets)]
    with torch.no_grad():
        return torch.cat([whole(row, torch.ones_like(row)) for row in rows]).numpy()


@pytest.mark.parametrize(
    "prompts", [PROMPTS, {"query": "what is asked: ", "document": ""}, {"document": "a passage: "}]
)
def test_a_text_is_embedded_behind_the_prompt_of_its_kind(changed_model, prompts):
    folder = changed_model(prompts=prompts)
    plain = SentenceTransformer(str(folder), device="cpu")
    expected = np.concatenate([plain.encode_query(TEXTS), plain.encode_document(TEXTS)])
    is_query = [True] * len(TEXTS) + [False] * len(TEXTS)
    found = by_role(load(str(folder)), [*TEXTS, *TEXTS], is_query)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found[: len(TEXTS)] - found[len(TEXTS) :]).max() > 1e-3


def test_a_prompt_counts_towards_the_limit(changed_model):
    folder = changed_model(prompts=PROMPTS)
    plain = SentenceTransformer(str(folder), device="cpu")
    plain.max_seq_length = 12
    expected = plain.preprocess(["hot " * 50], prompt=PROMPTS["query"])["input_ids"]
    found, _ = tokenize(load(str(folder)), ["hot " * 50], 12, [True])
    assert found.tolist() == expected[0].tolist()
    assert len(found) == 12


def test_no_prompt_is_dropped_for_want_of_knowing_what_a_text_is(changed_model):
    with pytest.raises(ValueError, match="has prompts; say which of the texts are queries"):
        tokenize(load(str(changed_model(prompts={"document": "a passage: "}))), TEXTS, 64)


def edited(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | changes))
    return folder


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("config_sentence_transformers.json", {"truncate_dim": 8}, r"only the first 8 dimensions .* are used"),
        ("sentence_bert_config.json", {"query_length": 16}, "in a way that is not supported"),
        (
            "sentence_bert_config.json",
            {"processing_kwargs": {"text": {"max_length": 16}}},
            "in a way that is not supported",
        ),
    ],
)
def test_what_cannot_be_followed_is_refused_with_a_way_out(changed_model, name, changes, said):
    folder = edited(changed_model(prompts=PROMPTS), name, **changes)
    with pytest.raises(InputError, match=rf"^{re.escape(str(folder))}: .*{said}.*; or name a model of"):
        load(str(folder))


@pytest.mark.parametrize("names", [("search_query", "search_document"), ("s2p_query",), ("clustering",)])
def test_prompts_of_which_nobody_says_what_they_belong_to_are_refused(changed_model, names):
    folder = changed_model(prompts=dict.fromkeys(names, "replace the pump "))
    said = rf"neither query nor passage \({', '.join(names)}\); set train\.prompts, to null"
    with pytest.raises(InputError, match=said):
        load(str(folder))
    assert load(str(changed_model(prompts={"query": "pumps ", "classification": "trucks "}))).prompts.query == "pumps "


def test_a_text_is_cut_off_where_roberta_has_no_more_positions(tmp_path):
    vocabulary = {token: number for number, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "pump"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    bare = RobertaModel(RobertaConfig(vocab_size=64, max_position_embeddings=20, pad_token_id=1, **sizes))
    wrapped.save_pretrained(tmp_path / "bare")
    bare.save_pretrained(tmp_path / "bare")
    words = Transformer(str(tmp_path / "bare"))
    SentenceTransformer(modules=[words, Pooling(32)], device="cpu").save(str(tmp_path / "base"))
    encoder = load(str(tmp_path / "base"))
    assert token_limit(encoder, 256) == 18
    assert len(encoder.model.encode(["pump " * 40])[0]) == 32


def test_different_ways_for_queries_and_passages_are_refused(changed_model):
    ways = Router.for_query_document([Dense(32, 16)], [Dense(32, 16)])
    with pytest.raises(InputError, match="in a way that is not supported"):
        load(str(changed_model(behind=[Pooling(32), ways])))


def test_pooling_that_leaves_prompts_out_is_no_objection_to_a_model_that_has_none(changed_model):
    folder = changed_model(behind=[Pooling(32, include_prompt=False)], prompts={"query": "", "document": ""})
    encoder = load(str(folder))
    assert not encoder.prompts
    assert encoder.unpooled == (0, 0)


@pytest.mark.parametrize("depth", [0, 1])
@pytest.mark.parametrize("pooling", ["mean", "max", "cls"])
def test_pooling_leaves_prompts_out_where_the_model_says_so(changed_model, pooling, depth):
    prompts = {"query": "hot dirty pump: ", "document": ""}
    behind = [Pooling(32, pooling, include_prompt=False), Normalize()]
    encoder = load(str(changed_model(prompts=prompts, behind=behind, layers=3)))
    assert encoder.unpooled[0] > 3
    assert encoder.unpooled[1] == 0
    texts, asks = [*TEXTS, *TEXTS], np.arange(2 * len(TEXTS)) < len(TEXTS)
    tokens = token_inputs(encoder, texts, 64, asks)
    inputs = frozen_inputs(encoder, tokens, [depth])[depth]
    found = embed(upper_for(encoder, inputs), feed(inputs, "cpu"), np.arange(len(texts)))
    plain = encoder.model
    expected = np.concatenate([plain.encode_query(TEXTS), plain.encode_document(TEXTS)])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    pooled = embed(upper_for(encoder, inputs), feed(replace(inputs, unpooled=None), "cpu"), np.arange(len(texts)))
    assert np.abs(pooled - expected)[asks].max() > 1e-3


@pytest.mark.parametrize(
    ("asked", "query", "passage"),
    [
        (PromptsConfig(), "a query: ", "a passage: "),
        (PromptsConfig(query="ask "), "ask ", "a passage: "),
        (PromptsConfig(query="ask ", document=""), "ask ", ""),
        (None, "", ""),
    ],
)
def test_prompts_are_those_stored_unless_others_or_none_are_asked_for(changed_model, asked, query, passage):
    stored = {"query": "a query: ", "document": "a passage: ", "other": "something: "}
    encoder = load(str(changed_model(prompts=stored, default="other")), prompts=asked)
    assert encoder.prompts == Prompts(query, passage)
    model, bare = encoder.model, load(str(changed_model())).model
    np.testing.assert_allclose(model.encode_query(TEXTS), bare.encode([query + text for text in TEXTS]), atol=1e-6)
    np.testing.assert_allclose(model.encode_document(TEXTS), bare.encode([passage + text for text in TEXTS]), atol=1e-6)


def test_prompts_of_no_role_are_left_out_where_others_or_none_are_asked_for(changed_model):
    folder = str(changed_model(prompts={"clustering": "sort: "}))
    assert not load(folder, prompts=None).prompts
    assert load(folder, prompts=PromptsConfig(query="ask ")).prompts == Prompts("ask ", "")


def test_a_revision_is_for_the_hub(tiny_model):
    with pytest.raises(InputError, match=r"is a folder, which has no revision 'main'; leave out train\.revision"):
        load(str(tiny_model()), revision="main")


def test_an_unknown_revision_is_named(monkeypatch):
    with pytest.raises(InputError, match=r"^no/such: no such folder, and the model hub does not give its revision v9"):
        load("no/such", revision="v9")


def test_code_of_a_model_is_not_run_unless_it_is_allowed_to(changed_model):
    folder = changed_model()
    (folder / "own.py").write_text(
        "from transformers import BertConfig\n\n\nclass OwnConfig(BertConfig):\n    model_type = 'own'\n"
    )
    edited(folder, "config.json", model_type="own", auto_map={"AutoConfig": "own.OwnConfig"})
    with pytest.raises(InputError, match=r"comes with code of its own, .* set train\.trust_remote_code to true"):
        load(str(folder))


@pytest.mark.parametrize(("dtype", "name"), [(torch.float16, "fp16"), (torch.bfloat16, "bf16"), (None, "fp32")])
def test_weights_are_fp32_however_they_are_stored(changed_model, dtype, name):
    behind = [Pooling(32), Dense(32, 16, activation_function=nn.Identity()), Normalize()]
    encoder = load(str(changed_model(dtype=dtype, behind=behind)))
    assert {value.dtype for value in encoder.model.state_dict().values() if value.is_floating_point()} == {
        torch.float32
    }
    assert encoder.stored_in == name
    part = upper(encoder, 1, from_ids=True)
    ids, _ = tokenize(encoder, TEXTS[:1], 64)
    assert (
        part(torch.tensor(ids.astype(np.int64))[None], torch.ones(1, len(ids), dtype=torch.long)).dtype == torch.float32
    )


def test_the_hash_of_weights_is_that_of_their_values(changed_model):
    stored = changed_model(dtype=torch.bfloat16)
    rounded = load(str(stored))
    rounded.model.save(str(stored.with_name("wide")), create_model_card=False)
    assert load(str(stored.with_name("wide"))).weights_sha256 == rounded.weights_sha256


def test_every_trained_weight_of_a_16_bit_base_takes_a_small_step(changed_model):
    encoder = load(str(changed_model(dtype=torch.bfloat16)))
    part = upper(encoder, 1, from_ids=True)
    before = {name: value.clone() for name, value in part.trained_state().items()}
    optimizer = torch.optim.AdamW(part.parameters(), lr=2e-5)
    for value in part.parameters():
        value.grad = torch.ones_like(value) if value.requires_grad else None
    optimizer.step()
    moved = {name: (value != before[name]).float().mean().item() for name, value in part.trained_state().items()}
    assert moved
    assert set(moved.values()) == {1.0}


@pytest.mark.parametrize("similarity", ["dot", "euclidean", "manhattan"])
@pytest.mark.parametrize("behind", [[], [Normalize()]])
def test_what_is_exported_ranks_alike_by_cosine_and_by_the_similarity_of_its_base(changed_model, similarity, behind):
    encoder = load(str(changed_model(similarity=similarity, behind=[Pooling(32), *behind])))
    assert encoder.similarity == similarity
    exported = for_cosine(encoder, 16)
    assert [type(module) for module in exported] == [Transformer, Pooling, Normalize]
    assert exported.similarity_fn_name == "cosine"
    found = exported.encode(TEXTS, convert_to_tensor=True)
    assert exported.similarity(found, found) == pytest.approx((found @ found.T).numpy(), abs=1e-6)
    # the base itself is still scored as it was meant
    assert encoder.model.similarity_fn_name == similarity
    assert (exported.max_seq_length, encoder.model.max_seq_length) == (16, 64)
    assert len(encoder.model) == 2 + len(behind)


def test_a_chat_template_around_texts_is_refused(changed_model):
    reads = {"method": "forward", "method_output_name": "last_hidden_state"}
    folder = edited(
        changed_model(),
        "sentence_bert_config.json",
        modality_config={"text": reads, "message": reads | {"format": "flat"}},
    )
    edited(folder, "tokenizer_config.json", chat_template="{% for each in messages %}{{ each.content }} !{% endfor %}")
    with pytest.raises(InputError, match="a chat template"):
        load(str(folder))
