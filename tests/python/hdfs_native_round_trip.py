"""The hdfs-native wheel writes and reads back: hdfs_native_round_trip.py URI DIRECTORY LOCAL-FILE..."""
import os
import sys

from hdfs_native import Client, WriteOptions

uri, directory, *local_files = sys.argv[1:]
client = Client(uri)
client.mkdirs(directory, create_parent=True)

for local in local_files:
    path = directory + "/" + os.path.basename(local)
    with open(local, "rb") as file:
        expected = file.read()
    with client.create(path, WriteOptions(block_size=1 << 20, replication=3)) as writer:
        for start in range(0, len(expected), 100_000):
            writer.write(expected[start:start + 100_000])
    with client.read(path) as reader:
        assert len(reader) == len(expected)
        assert reader.read() == expected, path
        middle = len(expected) // 2
        assert reader.read_range(middle, len(expected) - middle) == expected[middle:], path
    with client.append(path) as writer:
        writer.write(b"appended")
    with client.read(path) as reader:
        assert reader.read() == expected + b"appended", path
    client.rename(path, path + ".renamed")

status = {entry.path: entry.length for entry in client.list_status(directory)}
assert len(status) == len(local_files), status
for local in local_files:
    path = directory + "/" + os.path.basename(local) + ".renamed"
    assert status[path] == os.path.getsize(local) + len(b"appended"), status
assert client.delete(directory, recursive=True)
print("compared", len(local_files))
