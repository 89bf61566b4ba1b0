"""The formats of published data sets. Their columns are in the order that the publishers document.

- MovieLens: the README of each at https://files.grouplens.org/datasets/movielens/
- Amazon 2014: https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html, "ratings only"
- Amazon 2018: https://cseweb.ucsd.edu/~jmcauley/datasets/amazon_v2/, "ratings only"; the item comes first
- Gowalla check-ins: https://snap.stanford.edu/data/loc-gowalla.html
- Last.fm 1K: http://ocelma.net/MusicRecommendationDataset/lastfm-1K.html; the item is the artist by name,
  because many lines have no MusicBrainz id and some tracks have no name
"""

from __future__ import annotations

from adar_ray.data.formats.csv import CSV, Csv
from adar_ray.data.formats.delimited import Delimited

_RATING_COLUMNS = ("user", "item", "rating", "timestamp")
# At Amazon a user is an A and more letters or digits; a product has ten of them and begins with a digit or B.
_AMAZON_USER = "A[0-9A-Z]+"
_AMAZON_ITEM = "[0-9B][0-9A-Z]{9}"

ML_100K = Delimited(
    name="ml-100k",
    description="MovieLens 100K, u.data: user, item, rating, timestamp separated by tabs, no header",
    sure_names=("u.data",),
    stands_out=True,
    every_line=r"\d+\t\d+\t[\d.]+\t\d+",
    delimiter="\t",
    columns=_RATING_COLUMNS,
)
ML_1M = Delimited(
    name="ml-1m",
    description="MovieLens 1M and 10M, ratings.dat: user::item::rating::timestamp",
    sure_names=("ratings.dat",),
    stands_out=True,
    every_line=r"\d+::\d+::[\d.]+::\d+",
    delimiter="::",
    columns=_RATING_COLUMNS,
    encoding="latin-1",
)
ML_CSV = Csv(
    name="ml-csv",
    description="MovieLens 20M and later, ratings.csv: userId,movieId,rating,timestamp",
    other_names=("ratings.csv",),
    stands_out=True,
    first_line="userId,movieId,rating,timestamp",
    dialect_of=CSV,
    delimiter=",",
)
# Files of titles, which are no sources.
ML_100K_ITEMS = Delimited(
    name="u.item",
    description="MovieLens 100K, u.item: item, title, two dates, address and 19 genres separated by |",
    delimiter="|",
    columns=("item", "title", "released", "released on video", "address", *map(str, range(19))),
    encoding="latin-1",
)
ML_1M_MOVIES = Delimited(
    name="movies.dat",
    description="MovieLens 1M and 10M, movies.dat: item::title::genres",
    delimiter="::",
    columns=("item", "title", "genres"),
    encoding="latin-1",
)
AMAZON_2014 = Delimited(
    name="amazon-2014",
    description="Amazon 2014, ratings_*.csv: user,item,rating,timestamp, no header",
    other_names=("ratings_*.csv",),
    first_line=rf"{_AMAZON_USER},{_AMAZON_ITEM},[1-5]\.0,\d+",
    dialect_of=CSV,
    delimiter=",",
    columns=_RATING_COLUMNS,
)
AMAZON_2018 = Delimited(
    name="amazon-2018",
    description="Amazon 2018, ratings only: item,user,rating,timestamp, no header",
    other_names=("*.csv",),
    first_line=rf"{_AMAZON_ITEM},{_AMAZON_USER},[1-5]\.0,\d+",
    dialect_of=CSV,
    delimiter=",",
    columns=("item", "user", "rating", "timestamp"),
)
CHECKINS = Delimited(
    name="checkins",
    description="Gowalla, *_totalCheckins.txt: user, time, latitude, longitude, item, tab-separated",
    other_names=("*_totalcheckins.txt",),
    stands_out=True,
    every_line=r"\w+\t\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ(\t[\d.E-]+){2}\t\w+",
    delimiter="\t",
    columns=("user", "timestamp", "latitude", "longitude", "item"),
)
LASTFM_1K = Delimited(
    name="lastfm-1k",
    description="Last.fm 1K: user, time, artist's id and name, track's id and name, separated by tabs",
    sure_names=("userid-timestamp-artid-artname-traid-traname.tsv",),
    stands_out=True,
    delimiter="\t",
    columns=("user", "timestamp", "artist id", "item", "track id", "track name"),
    any_word_is_an_id=True,  # there are artists called None and Null
)
