"""Against brute force over all alignments, hand-made maps, and what must hold for any pair of prompts."""

from itertools import combinations

import pytest
import torch

from fewstep.icd.prompt_alignment import align, changed_words, refinement_map, replacement_map, token_ids, word_tokens
from tests.tiny_tokenizer import letter_tokenizer

LENGTH = 16


@pytest.fixture(scope="module")
def tokenizer():
    return letter_tokenizer(LENGTH)


def all_alignments(source, target):
    """Every set of pairs in order, whatever the tokens."""
    for size in range(min(len(source), len(target)) + 1):
        for rows in combinations(range(len(source)), size):
            for columns in combinations(range(len(target)), size):
                yield list(zip(rows, columns, strict=True))


def score(pairs, source, target):
    return sum(1 if source[i] == target[j] else -1 for i, j in pairs)  # gaps cost nothing


def test_alignment_is_as_good_as_the_best_of_all():
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        sizes = torch.randint(0, 6, (2,), generator=generator).tolist()
        source, target = (torch.randint(0, 3, (size,), generator=generator).tolist() for size in sizes)
        matches = align(source, target)
        pairs = [(i, j) for j, i in enumerate(matches) if i is not None]
        assert pairs in list(all_alignments(source, target))  # in order, each used once
        assert all(source[i] == target[j] for i, j in pairs)
        assert score(pairs, source, target) == max(score(p, source, target) for p in all_alignments(source, target))


def test_ties_are_broken_as_published():
    """Read from the end, a target token is skipped rather than matched: of two equal ones the first has the match."""
    assert align([7], [7, 7]) == [0, None]
    assert align([7, 7], [7]) == [0]
    assert align([1, 2], [2, 1]) == [1, None]


def test_words_of_several_tokens_case_punctuation_and_repetition(tokenizer):
    prompt = "a Cat, on a fox-red cat"  # start a cat , on a f o x - red cat end
    assert tokenizer.convert_ids_to_tokens(tokenizer(prompt).input_ids)[1:5] == ["a</w>", "cat</w>", ",</w>", "on</w>"]
    assert word_tokens(tokenizer, prompt, "cat") == [2, 11]
    assert word_tokens(tokenizer, prompt, "fox") == [6, 7, 8]
    assert word_tokens(tokenizer, prompt, "on A") == [4, 5]
    with pytest.raises(ValueError, match="'ca' is not a word of the prompt 'a Cat, on"):
        word_tokens(tokenizer, prompt, "ca")
    with pytest.raises(ValueError, match="'' is not a word"):
        word_tokens(tokenizer, prompt, "")


def test_changed_words_leave_out_what_says_nothing():
    assert changed_words("a cat, on a rug", "A dog on the red rug with the red hat") == ["dog", "red", "hat"]
    assert changed_words("a cat", "a cat") == []


def test_equal_prompts_map_to_themselves(tokenizer):
    for make in (refinement_map, replacement_map):
        torch.testing.assert_close(make(tokenizer, "a red fox", "a red fox", LENGTH), torch.eye(LENGTH))


def test_refinement_leaves_new_tokens_without_a_source(tokenizer):
    weights = refinement_map(tokenizer, "a cat", "a big red cat", LENGTH)  # 4 tokens, 6 tokens
    expected = torch.zeros(LENGTH, LENGTH)
    for row, column in [(0, 0), (1, 1), (2, 4), (3, 5), *((place, place) for place in range(6, LENGTH))]:
        expected[row, column] = 1
    torch.testing.assert_close(weights, expected)


def test_padding_never_takes_a_word(tokenizer):
    source, target = "a big red cat on a cat", "a cat"
    size, short = (len(token_ids(tokenizer, prompt, LENGTH)) for prompt in (source, target))
    weights = refinement_map(tokenizer, source, target, LENGTH)
    assert (weights[:size, short:] == 0).all()
    assert (weights[:, short:].sum(0) == 1).all()


def test_replacement_spreads_one_word_over_another_and_keeps_its_place(tokenizer):
    weights = replacement_map(tokenizer, "a cat on red", "a fox on red", LENGTH)  # start a cat on red | f o x
    expected = torch.zeros(LENGTH, LENGTH)
    for row, column in [(0, 0), (1, 1), (3, 5), (4, 6), (5, 7), *((place, place) for place in range(8, LENGTH))]:
        expected[row, column] = 1
    expected[2, 2:5] = 1 / 3
    torch.testing.assert_close(weights, expected)
    back = replacement_map(tokenizer, "a fox on red", "a cat on red", LENGTH)
    assert back[2:5, 2].tolist() == [1, 1, 1]
    assert back[:, 3:6].nonzero().tolist() == [[5, 0], [6, 1], [7, 2]]


def test_words_of_as_many_tokens_pair_token_by_token(tokenizer):
    weights = replacement_map(tokenizer, "a fox", "a dog", LENGTH)
    torch.testing.assert_close(weights, torch.eye(LENGTH))


def test_replacement_of_prompts_without_as_many_words_suggests_refinement(tokenizer):
    with pytest.raises(ValueError, match="'a cat' has 2 and 'a big cat' 3; use refine"):
        replacement_map(tokenizer, "a cat", "a big cat", LENGTH)


def test_prompts_that_are_too_long_are_named(tokenizer):
    with pytest.raises(ValueError, match="prompt of 19 tokens, at most 16; shorten 'cat cat"):
        refinement_map(tokenizer, "cat", "cat " * 17, LENGTH)
