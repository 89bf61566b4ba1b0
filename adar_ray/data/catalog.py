"""The catalog of public data sets: where to get them, under which terms, and how to read them.

Checksums are those that the publishers give: GroupLens' `.md5` files for MovieLens, and git's own object
ids for the files of a repository. Other publishers give none. The checksum of the file in the wheel was
taken from that file; without its header it is GroupLens' `u.data`, byte for byte.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True)
class Member:
    """One file of an archive, and the name to save it as.

    `header` is put before the content. It makes a publisher's file the same, byte for byte, as the file that
    another source of the data set provides, so it does not matter which source answered.
    """

    path: str
    save_as: str | None = None
    header: str = ""


@dataclass(frozen=True)
class Wheel:
    """A file inside a wheel on the Python package index."""

    package: str
    version: str
    member: str
    sha256: str


@dataclass(frozen=True)
class Download:
    """A file at an address: a zip, tar.gz or gz with `members` to extract, or, without members, the file.

    `checksum` is that of the download, as `sha256:...`, `md5:...` or `git-blob:...` (the id under which git
    stores a file); None if the publisher gives none.
    """

    url: str
    checksum: str | None = None
    members: tuple[Member, ...] = ()


Source = tuple[Wheel | Download, ...]
"""The parts that together make up a data set."""


@dataclass(frozen=True)
class CatalogEntry:
    """A public data set. The first source that is available is used; all sources provide the same
    interactions.

    `size` is the number of bytes that the first source downloads; None if unknown. `homepage` documents the
    files. `columns` maps user, item, timestamp and rating to the source's own names, where these are
    unusual. `by_hand` names the file of a data set without sources, whose publisher asks people to accept
    its terms before the download.
    """

    name: str
    title: str
    license: str
    size: int | None
    counts: str
    homepage: str
    sources: tuple[Source, ...]
    format: str
    columns: dict[str, str] | None = None
    note: str = ""
    by_hand: str = ""

    def prepare_command(self, source: str) -> str:
        """Return the command that prepares the data set from its files at `source`."""
        columns = ",".join(f"{key}={name}" for key, name in (self.columns or {}).items())
        options = f" --format {self.format}" + (f" --columns {columns}" if columns else "")
        return f"adar-ray prepare {shlex.quote(source)}{options} --out DATA"


_GROUPLENS = "GroupLens: research use only, not to be redistributed, acknowledgement required"
_INTER_HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
_NONE_STATED = "none stated, citation required, see homepage"
_NO_CHECKSUM = "no checksum is published for this file"
_REVIEW_COLUMNS = {"user": "reviewerID", "item": "asin", "timestamp": "unixReviewTime", "rating": "overall"}
# A product's variants (sizes, colors) have an `asin` each and share a `parent_asin`: the item in the
# publisher's own benchmarks.
_COLUMNS_2023 = {"user": "user_id", "item": "parent_asin", "timestamp": "timestamp", "rating": "rating"}
_AMAZON_2014 = "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html"
_AMAZON_2018 = "https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/"
_AMAZON_2023 = "https://amazon-reviews-2023.github.io/"
_CATEGORIES_2014 = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
_MCAULEY = "https://mcauleylab.ucsd.edu/public_datasets/data"
# A commit, not a branch, so the content at these addresses cannot change.
_LIGHTGCN_PYTORCH = "https://raw.githubusercontent.com/gusye1234/LightGCN-PyTorch/947ca2b3b1d2d3545b114145710cb06c4e57b3d2/data"
_LIGHTGCN = (
    "https://raw.githubusercontent.com/kuandeng/LightGCN/b067ec05f16a24e0e1efe63cd82385f0c469af20/Data"
)


def _movielens(archive: str, md5: str, *members: Member) -> Source:
    url = f"https://files.grouplens.org/datasets/movielens/{archive}"
    return (Download(url, f"md5:{md5}", members),)


def _recbole_example(member: str, sha256: str) -> Wheel:
    return Wheel("recbole", "1.2.1", f"recbole/dataset_example/{member}", sha256)


def _lightgcn_split(name: str, train: str, test: str) -> tuple[Source, ...]:
    """Both repositories of the paper's authors hold the same files, so one set of ids serves both."""
    return tuple(
        (
            Download(f"{repository}/{name}/train.txt", f"git-blob:{train}"),
            Download(f"{repository}/{name}/test.txt", f"git-blob:{test}"),
        )
        for repository in (_LIGHTGCN_PYTORCH, _LIGHTGCN)
    )


def _unpacked(*urls: str) -> tuple[Source, ...]:
    """One .gz file at several addresses."""
    return tuple(
        (Download(url, None, (Member(url.rpartition("/")[2].removesuffix(".gz")),)),) for url in urls
    )


_ALL = (
    CatalogEntry(
        name="ml-100k",
        title="MovieLens 100K",
        license=_GROUPLENS,
        size=2_130_151,
        counts="943 users, 1,682 items, 100,000 ratings",
        homepage="https://grouplens.org/datasets/movielens/100k/",
        sources=(
            (
                _recbole_example(
                    "ml-100k/ml-100k.inter",
                    "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
                ),
                _recbole_example(
                    "ml-100k/ml-100k.item",
                    "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
                ),
            ),
            _movielens(
                "ml-100k.zip",
                "0e33842e24a9c977be4e0107933c0723",
                Member("ml-100k/u.data", save_as="ml-100k.inter", header=_INTER_HEADER),
                Member("ml-100k/u.item"),
            ),
        ),
        format="inter",
        note="from the RecBole wheel, which ships it as an example, or else from GroupLens' archive",
    ),
    CatalogEntry(
        name="ml-1m",
        title="MovieLens 1M",
        license=_GROUPLENS,
        size=5_917_549,
        counts="6,040 users, 3,706 items, 1,000,209 ratings",
        homepage="https://grouplens.org/datasets/movielens/1m/",
        sources=(
            _movielens(
                "ml-1m.zip",
                "c4d9eecfca2ab87c1945afe126590906",
                Member("ml-1m/ratings.dat"),
                Member("ml-1m/movies.dat"),
            ),
        ),
        format="ml-1m",
    ),
    CatalogEntry(
        name="ml-20m",
        title="MovieLens 20M",
        license=_GROUPLENS,
        size=198_702_078,
        counts="138,493 users, 26,744 items, 20,000,263 ratings",
        homepage="https://grouplens.org/datasets/movielens/20m/",
        sources=(
            _movielens(
                "ml-20m.zip",
                "cd245b17a1ae2cc31bb14903e1204af3",
                Member("ml-20m/ratings.csv"),
                Member("ml-20m/movies.csv"),
            ),
        ),
        format="ml-csv",
    ),
    CatalogEntry(
        name="ml-32m",
        title="MovieLens 32M",
        license=_GROUPLENS,
        size=238_950_008,
        counts="200,948 users, 84,432 items, 32,000,204 ratings",
        homepage="https://grouplens.org/datasets/movielens/32m/",
        sources=(
            _movielens(
                "ml-32m.zip",
                "d472be332d4daa821edc399621853b57",
                Member("ml-32m/ratings.csv"),
                Member("ml-32m/movies.csv"),
            ),
        ),
        format="ml-csv",
    ),
    CatalogEntry(
        name="gowalla",
        title="Gowalla check-ins, the split of the LightGCN paper (SIGIR 2020)",
        license="none stated for the split; the check-ins are SNAP's, see homepage",
        size=None,
        counts="29,858 users, 40,981 items, 810,128 train and 217,242 test interactions",
        homepage="https://snap.stanford.edu/data/loc-gowalla.html",
        sources=_lightgcn_split(
            "gowalla", "a27782bd7a1d4d0744148dc0460ea94da74763f2", "9ed5af4b5d21511f33740b4e22e3852f45671800"
        ),
        format="user-items",
    ),
    CatalogEntry(
        name="yelp2018",
        title="Yelp 2018, the split of the LightGCN paper (SIGIR 2020)",
        license="none stated for the split; the reviews are under the Yelp Dataset terms, see homepage",
        size=None,
        counts="31,668 users, 38,048 items, 1,237,259 train and 324,147 test interactions",
        homepage="https://business.yelp.com/data/resources/open-dataset/",
        sources=_lightgcn_split(
            "yelp2018", "cda12361055ba448ae4bd1070f6000c16dea8f22", "30dfbc3437b27b74cb2970b435a5ec93ad9f2468"
        ),
        format="user-items",
    ),
    CatalogEntry(
        name="amazon-book",
        title="Amazon Books, the split of the LightGCN paper (SIGIR 2020)",
        license="none stated for the split or the reviews, see homepage",
        size=None,
        counts="52,643 users, 91,599 items, 2,380,730 train and 603,378 test interactions",
        homepage=_AMAZON_2014,
        sources=_lightgcn_split(
            "amazon-book",
            "6ef55159c5f1fd7f6d86eb9ff290d0cc2854ac99",
            "09e5da4e0bf46c751c4ba0f4375e414fd13512cd",
        ),
        format="user-items",
    ),
    CatalogEntry(
        name="amazon-beauty",
        title="Amazon Beauty reviews, 2014, 5-core",
        license=_NONE_STATED,
        size=None,
        counts="22,363 users, 12,101 items, 198,502 reviews",
        homepage=_AMAZON_2014,
        sources=_unpacked(f"{_CATEGORIES_2014}/reviews_Beauty_5.json.gz"),
        format="jsonl",
        columns=_REVIEW_COLUMNS,
        note=_NO_CHECKSUM,
    ),
    CatalogEntry(
        name="amazon-video-games",
        title="Amazon Video Games reviews, 2014, 5-core",
        license=_NONE_STATED,
        size=None,
        counts="24,303 users, 10,672 items, 231,780 reviews",
        homepage=_AMAZON_2014,
        sources=_unpacked(f"{_CATEGORIES_2014}/reviews_Video_Games_5.json.gz"),
        format="jsonl",
        columns=_REVIEW_COLUMNS,
        note=_NO_CHECKSUM,
    ),
    CatalogEntry(
        name="amazon-video-games-ratings",
        title="Amazon Video Games ratings, 2014, all",
        license=_NONE_STATED,
        size=None,
        counts="826,767 users, 50,210 items, 1,324,753 ratings",
        homepage=_AMAZON_2014,
        sources=((Download(f"{_CATEGORIES_2014}/ratings_Video_Games.csv"),),),
        format="amazon-2014",
        note=_NO_CHECKSUM,
    ),
    CatalogEntry(
        name="amazon-2018-video-games",
        title="Amazon Video Games reviews, 2018, 5-core",
        license=_NONE_STATED,
        size=None,
        counts="497,577 reviews",
        homepage=_AMAZON_2018,
        sources=_unpacked(f"{_MCAULEY}/amazon_v2/categoryFilesSmall/Video_Games_5.json.gz"),
        format="jsonl",
        columns=_REVIEW_COLUMNS,
        note=_NO_CHECKSUM,
    ),
    CatalogEntry(
        name="amazon-2018-video-games-ratings",
        title="Amazon Video Games ratings, 2018, all",
        license=_NONE_STATED,
        size=None,
        counts="1,540,618 users, 71,982 items, 2,565,349 ratings",
        homepage=_AMAZON_2018,
        sources=((Download(f"{_MCAULEY}/amazon_v2/categoryFilesSmall/Video_Games.csv"),),),
        format="amazon-2018",
        note=_NO_CHECKSUM,
    ),
    CatalogEntry(
        name="amazon-2023-video-games",
        title="Amazon Video Games reviews, 2023, all",
        license=_NONE_STATED,
        size=None,
        counts="2.8 million users, 137,200 items, 4.6 million reviews",
        homepage=_AMAZON_2023,
        sources=_unpacked(f"{_MCAULEY}/amazon_2023/raw/review_categories/Video_Games.jsonl.gz"),
        format="jsonl",
        columns=_COLUMNS_2023,
        note=_NO_CHECKSUM,
    ),
    CatalogEntry(
        name="amazon-2023-video-games-ratings",
        title="Amazon Video Games ratings, 2023, 5-core",
        license=_NONE_STATED,
        size=None,
        counts="94,800 users, 25,600 items, 814,600 ratings",
        homepage=f"{_AMAZON_2023}data_processing/5core.html",
        sources=_unpacked(f"{_MCAULEY}/amazon_2023/benchmark/5core/rating_only/Video_Games.csv.gz"),
        format="csv",
        columns=_COLUMNS_2023,
        note=_NO_CHECKSUM,
    ),
    CatalogEntry(
        name="gowalla-checkins",
        title="Gowalla check-ins with times, 2009 to 2010, all",
        license=_NONE_STATED,
        size=None,
        counts="107,092 users, 1,280,969 places, 6,442,892 check-ins",
        homepage="https://snap.stanford.edu/data/loc-gowalla.html",
        sources=_unpacked("https://snap.stanford.edu/data/loc-gowalla_totalCheckins.txt.gz"),
        format="checkins",
        note=_NO_CHECKSUM,
    ),
    CatalogEntry(
        name="yelp",
        title="Yelp Open Dataset reviews",
        license="Yelp's dataset terms: academic use; accept them before the download",
        size=None,
        counts="1,987,929 users, 150,346 places, 6,990,280 reviews (2022)",
        homepage="https://business.yelp.com/data/resources/open-dataset/",
        sources=(),
        by_hand="yelp_academic_dataset_review.json",
        format="jsonl",
        columns={"user": "user_id", "item": "business_id", "timestamp": "date", "rating": "stars"},
    ),
    CatalogEntry(
        name="lastfm-2k",
        title="Last.fm listening counts (HetRec 2011), without times",
        license="non-commercial use, see homepage",
        size=None,
        counts="1,892 users, 17,632 artists, 92,834 counts",
        homepage="https://grouplens.org/datasets/hetrec-2011/",
        sources=(
            (
                Download(
                    "https://files.grouplens.org/datasets/hetrec2011/hetrec2011-lastfm-2k.zip",
                    None,
                    (Member("user_artists.dat"),),
                ),
            ),
        ),
        format="tsv",
        columns={"user": "userID", "item": "artistID", "rating": "weight"},
        note=_NO_CHECKSUM,
    ),
    CatalogEntry(
        name="lastfm-1k",
        title="Last.fm listening histories with times; the items are artists",
        license="non-commercial use, with permission of Last.fm, see homepage",
        size=None,
        counts="992 users, 19,150,868 listens",
        homepage="http://ocelma.net/MusicRecommendationDataset/lastfm-1K.html",
        sources=tuple(
            (
                Download(
                    f"{folder}/lastfm-dataset-1K.tar.gz",
                    None,
                    (Member("lastfm-dataset-1K/userid-timestamp-artid-artname-traid-traname.tsv"),),
                ),
            )
            for folder in (
                "https://zenodo.org/records/6090214/files",
                "https://mtg.upf.edu/static/datasets/last.fm",
            )
        ),
        format="lastfm-1k",
        note="no checksum is published for the archive",
    ),
    CatalogEntry(
        name="steam",
        title="Steam reviews, 2010 to 2018",
        license=_NONE_STATED,
        size=None,
        counts="2,567,538 users, 15,474 items, 7,793,069 reviews",
        homepage="https://cseweb.ucsd.edu/~jmcauley/datasets.html#steam_data",
        sources=_unpacked(
            f"{_MCAULEY}/steam/steam_reviews.json.gz",
            "https://cseweb.ucsd.edu/~wckang/steam_reviews.json.gz",
        ),
        format="pydict",
        # Only some lines have `user_id`; all have `username`.
        columns={"user": "username", "item": "product_id", "timestamp": "date"},
        note=_NO_CHECKSUM,
    ),
)

CATALOG: dict[str, CatalogEntry] = {dataset.name: dataset for dataset in _ALL}
"""Every data set of `adar-ray data list`, by name."""
