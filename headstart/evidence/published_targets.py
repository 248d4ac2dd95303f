"""What is publicly known of the 36 targets of the model-recycling results: task, classes, train rows.

Train sizes are those of the official train splits; None where the split used is not documented.
"""

from __future__ import annotations

from typing import NamedTuple


class PublishedTarget(NamedTuple):
    """Facts on one dataset."""

    task: str
    classes: int | None
    train_size: int | None
    metric: str = "accuracy"


PUBLISHED_TARGETS: dict[str, PublishedTarget] = {
    "cola": PublishedTarget("acceptability", 2, 8_551),
    "mrpc": PublishedTarget("paraphrase", 2, 3_668),
    "qqp": PublishedTarget("paraphrase", 2, 363_846),
    "stsb": PublishedTarget("similarity", None, 5_749, "spearman"),
    "boolq": PublishedTarget("question_answering", 2, 9_427),
    "cb": PublishedTarget("nli", 3, 250),
    "copa": PublishedTarget("question_answering", 2, 400),
    "multirc": PublishedTarget("question_answering", 2, 27_243),
    "wic": PublishedTarget("word_sense", 2, 5_428),
    "wsc": PublishedTarget("coreference", 2, 554),
    "ag_news": PublishedTarget("topic", 4, 120_000),
    "isear": PublishedTarget("emotion", 7, None),
    "yahoo_answers": PublishedTarget("topic", 10, 1_400_000),
    "dbpedia": PublishedTarget("topic", 14, 560_000),
    "20_newsgroup": PublishedTarget("topic", 20, 11_314),
    "trec_fine": PublishedTarget("question_type", 50, 5_452),
    "trec_coarse": PublishedTarget("question_type", 6, 5_452),
    "poem_sentiment": PublishedTarget("sentiment", 4, 892),
    "imdb": PublishedTarget("sentiment", 2, 25_000),
    "rotten_tomatoes": PublishedTarget("sentiment", 2, 8_530),
    "sst_5bins": PublishedTarget("sentiment", 5, 8_544),
    "sst2": PublishedTarget("sentiment", 2, 67_349),
    "amazon_reviews_multi": PublishedTarget("sentiment", 5, 200_000),
    "financial_phrasebank": PublishedTarget("sentiment", 3, None),
    "tweet_ev_emoji": PublishedTarget("emoji", 20, 45_000),
    "tweet_ev_emotion": PublishedTarget("emotion", 4, 3_257),
    "tweet_ev_hate": PublishedTarget("hate_speech", 2, 9_000),
    "tweet_ev_irony": PublishedTarget("irony", 2, 2_862),
    "tweet_ev_offensive": PublishedTarget("offensive", 2, 11_916),
    "tweet_ev_sentiment": PublishedTarget("sentiment", 3, 45_615),
    "mnli": PublishedTarget("nli", 3, 392_702),
    "qnli": PublishedTarget("nli", 2, 104_743),
    "rte": PublishedTarget("nli", 2, 2_490),
    "wnli": PublishedTarget("nli", 2, 635),
    "esnli": PublishedTarget("nli", 3, 549_367),
    "anli": PublishedTarget("nli", 3, 162_865),
}
