"""A library of videos: indexed once, searched by sentences and images across all of them.

    from r2rt import Archive

    with Archive.open("library", model="qvhighlights") as archive:
        archive.add(["videos/"])
        for hit in archive.search("a dog catches a frisbee"):
            print(hit.path, hit.start_s, hit.end_s, hit.score)

`library.py` is the session; `index.py` writes and `search.py` reads the tables of `tables.py`.
"""
