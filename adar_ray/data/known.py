"""The public data sets that can be fetched by name: where they lie, under which terms, how they are read.

Checksums are the ones that the publishers give: GroupLens' `.md5` files, and the object ids that git
itself gives the files of a repository. The one of the file in the wheel was taken from that file; without
its header it is GroupLens' `u.data`, byte for byte.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Member:
    """One file of an archive, and what it is called once it is taken out.

    `header` is put before the content: with it, a publisher's file becomes byte for byte the file that
    another source of the same data set holds, so that it does not matter which of them answered.
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
    """A file at an address: a zip, tar.gz or gz to take `members` out of, or, without any, the file itself.

    `checksum` is of the download, as `sha256:...`, `md5:...` or `git-blob:...` (the id under which git
    stores a file); None where its publisher gives none.
    """

    url: str
    checksum: str | None = None
    members: tuple[Member, ...] = ()


Source = tuple[Wheel | Download, ...]
"""What makes a data set complete when all of it is there."""


@dataclass(frozen=True)
class KnownDataset:
    """A public data set. The first of its sources that can be had is used; all of them give the same files.

    `size` is the bytes that the first source downloads, None where that is not known. `columns` maps
    user, item, timestamp and rating to the source's own names, for the formats that have names.
    """

    name: str
    title: str
    licence: str
    size: int | None
    counts: str
    homepage: str
    sources: tuple[Source, ...]
    format: str
    columns: dict[str, str] | None = None
    note: str = ""


_GROUPLENS = "GroupLens: research use only, not to be redistributed, acknowledgement required"
_INTER_HEADER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
_REVIEW_COLUMNS = {"user": "reviewerID", "item": "asin", "timestamp": "unixReviewTime", "rating": "overall"}
# A commit, not a branch: what lies behind these addresses cannot change.
_LIGHTGCN_PYTORCH = "https://raw.githubusercontent.com/gusye1234/LightGCN-PyTorch/947ca2b3b1d2d3545b114145710cb06c4e57b3d2/data"
_LIGHTGCN = (
    "https://raw.githubusercontent.com/kuandeng/LightGCN/b067ec05f16a24e0e1efe63cd82385f0c469af20/Data"
)


def _movielens(archive: str, md5: str, member: Member) -> Source:
    url = f"https://files.grouplens.org/datasets/movielens/{archive}"
    return (Download(url, f"md5:{md5}", (member,)),)


def _lightgcn_split(name: str, train: str, test: str) -> tuple[Source, ...]:
    """Both repositories of the paper's authors hold the same files, so one set of ids serves for both."""
    return tuple(
        (
            Download(f"{repository}/{name}/train.txt", f"git-blob:{train}"),
            Download(f"{repository}/{name}/test.txt", f"git-blob:{test}"),
        )
        for repository in (_LIGHTGCN_PYTORCH, _LIGHTGCN)
    )


def _amazon_reviews(category: str) -> tuple[Source, ...]:
    file = f"reviews_{category}_5.json"
    url = f"https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/{file}.gz"
    return ((Download(url, None, (Member(file),)),),)


_ALL = (
    KnownDataset(
        name="ml-100k",
        title="MovieLens 100K",
        licence=_GROUPLENS,
        size=2_130_151,
        counts="943 users, 1,682 items, 100,000 ratings",
        homepage="https://grouplens.org/datasets/movielens/100k/",
        sources=(
            (
                Wheel(
                    package="recbole",
                    version="1.2.1",
                    member="recbole/dataset_example/ml-100k/ml-100k.inter",
                    sha256="4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
                ),
            ),
            _movielens(
                "ml-100k.zip",
                "0e33842e24a9c977be4e0107933c0723",
                Member("ml-100k/u.data", save_as="ml-100k.inter", header=_INTER_HEADER),
            ),
        ),
        format="inter",
        note="taken from the RecBole wheel, which ships it as an example; else from GroupLens' archive",
    ),
    KnownDataset(
        name="ml-1m",
        title="MovieLens 1M",
        licence=_GROUPLENS,
        size=5_917_549,
        counts="6,040 users, 3,706 items, 1,000,209 ratings",
        homepage="https://grouplens.org/datasets/movielens/1m/",
        sources=(_movielens("ml-1m.zip", "c4d9eecfca2ab87c1945afe126590906", Member("ml-1m/ratings.dat")),),
        format="ml-1m",
    ),
    KnownDataset(
        name="ml-20m",
        title="MovieLens 20M",
        licence=_GROUPLENS,
        size=198_702_078,
        counts="138,493 users, 26,744 items, 20,000,263 ratings",
        homepage="https://grouplens.org/datasets/movielens/20m/",
        sources=(_movielens("ml-20m.zip", "cd245b17a1ae2cc31bb14903e1204af3", Member("ml-20m/ratings.csv")),),
        format="ml-csv",
    ),
    KnownDataset(
        name="ml-32m",
        title="MovieLens 32M",
        licence=_GROUPLENS,
        size=238_950_008,
        counts="200,948 users, 84,432 items, 32,000,204 ratings",
        homepage="https://grouplens.org/datasets/movielens/32m/",
        sources=(_movielens("ml-32m.zip", "d472be332d4daa821edc399621853b57", Member("ml-32m/ratings.csv")),),
        format="ml-csv",
    ),
    KnownDataset(
        name="gowalla",
        title="Gowalla check-ins, the split of the LightGCN paper (SIGIR 2020)",
        licence="none stated for the split; the check-ins are SNAP's, see homepage",
        size=None,
        counts="29,858 users, 40,981 items, 810,128 train and 217,242 test interactions",
        homepage="https://snap.stanford.edu/data/loc-gowalla.html",
        sources=_lightgcn_split(
            "gowalla", "a27782bd7a1d4d0744148dc0460ea94da74763f2", "9ed5af4b5d21511f33740b4e22e3852f45671800"
        ),
        format="user-items",
    ),
    KnownDataset(
        name="yelp2018",
        title="Yelp 2018, the split of the LightGCN paper (SIGIR 2020)",
        licence="none stated for the split; the reviews are under the Yelp Dataset terms, see homepage",
        size=None,
        counts="31,668 users, 38,048 items, 1,237,259 train and 324,147 test interactions",
        homepage="https://business.yelp.com/data/resources/open-dataset/",
        sources=_lightgcn_split(
            "yelp2018", "cda12361055ba448ae4bd1070f6000c16dea8f22", "30dfbc3437b27b74cb2970b435a5ec93ad9f2468"
        ),
        format="user-items",
    ),
    KnownDataset(
        name="amazon-book",
        title="Amazon Books, the split of the LightGCN paper (SIGIR 2020)",
        licence="none stated for the split or the reviews, see homepage",
        size=None,
        counts="52,643 users, 91,599 items, 2,380,730 train and 603,378 test interactions",
        homepage="https://jmcauley.ucsd.edu/data/amazon/",
        sources=_lightgcn_split(
            "amazon-book",
            "6ef55159c5f1fd7f6d86eb9ff290d0cc2854ac99",
            "09e5da4e0bf46c751c4ba0f4375e414fd13512cd",
        ),
        format="user-items",
    ),
    KnownDataset(
        name="amazon-beauty",
        title="Amazon Beauty reviews, 2014, 5-core",
        licence="none stated, citation required, see homepage",
        size=None,
        counts="22,363 users, 12,101 items, 198,502 reviews",
        homepage="https://jmcauley.ucsd.edu/data/amazon/",
        sources=_amazon_reviews("Beauty"),
        format="jsonl",
        columns=_REVIEW_COLUMNS,
        note="no checksum is published for this file",
    ),
    KnownDataset(
        name="amazon-video-games",
        title="Amazon Video Games reviews, 2014, 5-core",
        licence="none stated, citation required, see homepage",
        size=None,
        counts="24,303 users, 10,672 items, 231,780 reviews",
        homepage="https://jmcauley.ucsd.edu/data/amazon/",
        sources=_amazon_reviews("Video_Games"),
        format="jsonl",
        columns=_REVIEW_COLUMNS,
        note="no checksum is published for this file",
    ),
)

KNOWN: dict[str, KnownDataset] = {dataset.name: dataset for dataset in _ALL}
"""Every data set that `adar-ray data fetch` knows, by name."""
