"""snakebite-py3 lists and reads: snakebite_reads.py HOST PORT DIRECTORY LOCAL-COPY-OF-EACH-FILE...

Each local file is compared with DIRECTORY's file of the same name.
"""
import os
import sys

from snakebite.client import Client

host, port, directory, *local_files = sys.argv[1:]
client = Client(host, int(port), use_trash=False)

listed = {entry["path"]: entry for entry in client.ls([directory])}
assert len(listed) == len(local_files), listed
for local in local_files:
    path = directory + "/" + os.path.basename(local)
    with open(local, "rb") as file:
        expected = file.read()
    entry = listed[path]
    assert entry["file_type"] == "f" and entry["length"] == len(expected), entry
    assert entry["block_replication"] == 3 and entry["owner"] and entry["group"], entry
    [content] = client.cat([path], check_crc=True)
    assert b"".join(content) == expected, path
    [tail] = client.tail(path)
    assert tail == expected[-1024:], path

stat = client.stat([directory])
assert stat["file_type"] == "d", stat
assert client.test(directory, exists=True, directory=True)
[count] = client.count([directory])
assert count["fileCount"] == len(local_files), count
assert client.df()["capacity"] > 0
list(client.mkdir([directory + "/made/by/snakebite"], create_parent=True))
list(client.touchz([directory + "/made/empty"]))
list(client.rename([directory + "/made/empty"], directory + "/made/renamed"))
recursive = [entry["path"] for entry in client.ls([directory + "/made"], recurse=True)]
assert directory + "/made/renamed" in recursive, recursive
list(client.delete([directory + "/made"], recurse=True))
assert not client.test(directory + "/made", exists=True)
print("compared", len(local_files))
