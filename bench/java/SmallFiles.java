// Small files through Hadoop's own Java client, for `ringfs bench goal small-files`: create, write and
// close, a closed loop in each thread, each with a directory of its own.
//
//   java -cp 'HADOOP_CLIENT_JARS/*' SmallFiles.java uri=hdfs://HOST:PORT threads=8 repl=3 \
//        size=10240 seconds=5 warm=5 dir=/bench-small pids=NAME:PID,...
//
// Prints one JSON object: files, seconds, and the processor time of the processes named. The files stay;
// whoever asks for them deletes the directory. `warm` seconds of the same come first and do not count.
// Where a block is not reported yet as its file is closed the client asks again after 5 ms, as ours does
// in that goal: Hadoop's own pause of 400 ms would be all there is to measure.

import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.util.LinkedHashMap;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.ArrayList;
import java.util.List;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;

public class SmallFiles {
    private static final double USER_HZ = 100;

    private static final Map<String, String> arguments = new LinkedHashMap<>();

    public static void main(String[] given) throws Exception {
        for (String argument : given) {
            String[] parts = argument.split("=", 2);
            arguments.put(parts[0], parts[1]);
        }
        Configuration conf = new Configuration();
        conf.set("dfs.client.block.write.locateFollowingBlock.initial.delay.ms", "5");
        URI uri = URI.create(text("uri", "hdfs://127.0.0.1:8020"));
        try (FileSystem fs = FileSystem.get(uri, conf)) {
            String directory = text("dir", "/bench-small") + "/" + ProcessHandle.current().pid();
            write(fs, directory + "/warm", number("warm", 5));
            Map<String, Double> before = processorTimes();
            long started = System.nanoTime();
            long files = write(fs, directory + "/run", number("seconds", 5));
            double elapsed = (System.nanoTime() - started) / 1e9;
            print(files, elapsed, before);
        }
    }

    /** Returns how many files were written. */
    private static long write(FileSystem fs, String directory, int seconds) throws Exception {
        int threads = number("threads", 8);
        byte[] content = new byte[number("size", 10240)];
        short replication = (short) number("repl", 3);
        long end = System.nanoTime() + seconds * 1_000_000_000L;
        ExecutorService pool = Executors.newFixedThreadPool(threads);
        try {
            List<Callable<Long>> callers = new ArrayList<>();
            for (int caller = 0; caller < threads; caller++) {
                String own = directory + "/caller_" + caller + "/";
                callers.add(() -> {
                    long file = 0;
                    for (; System.nanoTime() < end; file++) {
                        Path path = new Path(own + file);
                        try (FSDataOutputStream out = fs.create(path, true, 4096, replication, 128L << 20)) {
                            out.write(content);
                        }
                    }
                    return file;
                });
            }
            long files = 0;
            for (Future<Long> caller : pool.invokeAll(callers)) {
                files += caller.get();
            }
            return files;
        } finally {
            pool.shutdown();
        }
    }

    private static void print(long files, double elapsed, Map<String, Double> before) throws Exception {
        StringBuilder times = new StringBuilder();
        for (Map.Entry<String, Double> process : processorTimes().entrySet()) {
            double used = process.getValue() - before.get(process.getKey());
            times.append(times.length() == 0 ? "" : ",");
            times.append(String.format(Locale.ROOT, "\"%s\":%.2f", process.getKey(), used));
        }
        System.out.printf(Locale.ROOT, "{\"op\":\"small\",\"ops\":%d,\"size\":%d,\"s\":%.3f,\"cpu_s\":{%s}}%n",
                files, number("size", 10240), elapsed, times);
    }

    private static Map<String, Double> processorTimes() throws Exception {
        Map<String, Double> times = new LinkedHashMap<>();
        for (String process : text("pids", "").split(",")) {
            if (!process.isEmpty()) {
                String[] parts = process.split(":");
                times.put(parts[0], processorTime(parts[1]));
            }
        }
        times.put("client", processorTime("self"));
        return times;
    }

    private static double processorTime(String pid) throws Exception {
        String stat = new String(Files.readAllBytes(Paths.get("/proc/" + pid + "/stat")));
        String[] fields = stat.substring(stat.lastIndexOf(')') + 2).split(" ");
        return (Long.parseLong(fields[11]) + Long.parseLong(fields[12])) / USER_HZ;
    }

    private static String text(String name, String otherwise) {
        return arguments.getOrDefault(name, otherwise);
    }

    private static int number(String name, int otherwise) {
        return Integer.parseInt(text(name, Integer.toString(otherwise)));
    }
}
