"""A Spark job on an HDFS: spark_parquet.py URI ROWS

Writes, overwrites, appends and reads Parquet, with the commit by rename that Hadoop's output
committers do; a partitioned table; text.
"""
import sys

from pyspark.sql import SparkSession, functions as F

uri, rows = sys.argv[1], int(sys.argv[2])
base = uri + "/spark"
spark = (
    SparkSession.builder.master("local[2]")
    .config("spark.ui.enabled", "false")
    .config("spark.driver.bindAddress", "127.0.0.1")
    .config("spark.driver.host", "127.0.0.1")
    .config("spark.sql.shuffle.partitions", "2")
    .config("spark.sql.warehouse.dir", base + "/warehouse")
    .config("spark.hadoop.fs.defaultFS", uri)
    .getOrCreate()
)
table = spark.range(0, rows, 1, 3).select(
    "id", (F.col("id") % 5).alias("k"), F.sha2(F.col("id").cast("string"), 256).alias("digest")
)
expected = table.agg(F.sum("id"), F.sum(F.hash("digest"))).collect()[0]

for _ in range(2):
    table.write.mode("overwrite").parquet(base + "/table")
found = spark.read.parquet(base + "/table").agg(F.sum("id"), F.sum(F.hash("digest"))).collect()[0]
assert tuple(found) == tuple(expected), (found, expected)

table.limit(1000).write.mode("append").parquet(base + "/table")
assert spark.read.parquet(base + "/table").count() == rows + 1000

table.limit(5000).write.partitionBy("k").parquet(base + "/partitioned")
assert spark.read.parquet(base + "/partitioned").where("k = 3").count() == 1000

table.limit(2000).select(F.col("digest")).write.text(base + "/text")
assert spark.read.text(base + "/text").count() == 2000
spark.stop()
print("rows", rows)
