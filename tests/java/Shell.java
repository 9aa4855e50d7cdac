// Hadoop's own client behind a pipe: one JVM runs many commands, so that a test pays for one start.
//
// A request is a line of fields separated by tabs (\t, \n and \\ within a field are escaped):
//   STDIN-FILE ARGUMENT...     FsShell with these arguments; STDIN-FILE "-" is an empty stdin
//   STDIN-FILE @hflush PATH N  write N bytes of STDIN-FILE to PATH, hflush, leave the file open
//   STDIN-FILE @hsync PATH N   the same with hsync
//   - @create PATH REPLICATION create PATH and keep it for the next three
//   STDIN-FILE @write OFFSET N write the N bytes of STDIN-FILE at OFFSET to it
//   - @flush -                 hflush it
//   - @close -                 close it
//   - @append PATH TEXT        append TEXT and close
//   - @truncate PATH N         truncate to N bytes; prints true or false
//   - @recoverLease PATH       prints true or false
//   - @concat TARGET SOURCE... concat
//   - @refreshNodes -          what `hdfs dfsadmin -refreshNodes` calls
//   - @report KIND             what `hdfs dfsadmin -report` prints of each datanode (ALL, LIVE, ...)
//   - @setBalancerBandwidth N  bytes a second
//   - @pread PATH OFFSET N     the N bytes at OFFSET to stdout
// The reply is "EXIT OUT-BYTES ERR-BYTES\n" and the bytes.
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataOutputStream;
import java.io.FileInputStream;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.InputStream;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.FsShell;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.hdfs.DistributedFileSystem;
import org.apache.hadoop.hdfs.protocol.DatanodeInfo;
import org.apache.hadoop.hdfs.protocol.HdfsConstants.DatanodeReportType;
import org.apache.hadoop.util.ToolRunner;

public class Shell {
  /** Streams that a command left open on purpose: a writer that is alive and silent. */
  static final List<FSDataOutputStream> open = new ArrayList<>();

  /** The stream of @create. */
  static FSDataOutputStream current;

  public static void main(String[] argv) throws Exception {
    Configuration conf = new Configuration();
    for (String setting : argv) {
      String[] nameAndValue = setting.split("=", 2);
      conf.set(nameAndValue[0], nameAndValue[1]);
    }
    DataOutputStream replies = new DataOutputStream(new FileOutputStream(FileDescriptor.out));
    BufferedReader requests =
        new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line; (line = requests.readLine()) != null; ) {
      String[] fields = Arrays.stream(line.split("\t", -1)).map(Shell::unescape).toArray(String[]::new);
      ByteArrayOutputStream out = new ByteArrayOutputStream();
      ByteArrayOutputStream err = new ByteArrayOutputStream();
      int exit;
      try (InputStream in = input(fields[0])) {
        System.setIn(in);
        System.setOut(new PrintStream(out, true));
        System.setErr(new PrintStream(err, true));
        exit = run(conf, Arrays.copyOfRange(fields, 1, fields.length));
      } catch (Exception e) {
        e.printStackTrace(System.err);
        exit = -100;
      }
      System.out.flush();
      System.err.flush();
      // Threads of the client may log at any time, and what comes later is not in the counts.
      byte[] outBytes = out.toByteArray();
      byte[] errBytes = err.toByteArray();
      replies.writeBytes(exit + " " + outBytes.length + " " + errBytes.length + "\n");
      replies.write(outBytes);
      replies.write(errBytes);
      replies.flush();
    }
  }

  static InputStream input(String file) throws Exception {
    return file.equals("-") ? new ByteArrayInputStream(new byte[0]) : new FileInputStream(file);
  }

  static int run(Configuration conf, String[] a) throws Exception {
    if (!a[0].startsWith("@")) {
      // A cached FileSystem would keep the settings of the command that made it.
      Configuration own = new Configuration(conf);
      own.setBoolean("fs.hdfs.impl.disable.cache", true);
      return ToolRunner.run(new FsShell(own), a);
    }
    Path path = new Path(a[1]);
    DistributedFileSystem fs = (DistributedFileSystem) FileSystem.get(conf);
    switch (a[0]) {
      case "@hflush":
      case "@hsync": {
        FSDataOutputStream stream = fs.create(path);
        stream.write(System.in.readNBytes(Integer.parseInt(a[2])));
        if (a[0].equals("@hflush")) stream.hflush(); else stream.hsync();
        open.add(stream);
        return 0;
      }
      case "@create":
        current = fs.create(path, true, 4096, Short.parseShort(a[2]), fs.getDefaultBlockSize(path));
        return 0;
      case "@write":
        System.in.skipNBytes(Long.parseLong(a[1]));
        current.write(System.in.readNBytes(Integer.parseInt(a[2])));
        return 0;
      case "@flush":
        current.hflush();
        return 0;
      case "@close":
        current.close();
        return 0;
      case "@append":
        try (FSDataOutputStream stream = fs.append(path)) {
          stream.write(a[2].getBytes(StandardCharsets.UTF_8));
        }
        return 0;
      case "@truncate":
        System.out.println(fs.truncate(path, Long.parseLong(a[2])));
        return 0;
      case "@recoverLease":
        System.out.println(fs.recoverLease(path));
        return 0;
      case "@concat":
        fs.concat(path, Arrays.stream(a, 2, a.length).map(Path::new).toArray(Path[]::new));
        return 0;
      case "@setQuota":
        fs.setQuota(path, Long.parseLong(a[2]), Long.parseLong(a[3]));
        return 0;
      case "@refreshNodes":
        fs.refreshNodes();
        return 0;
      case "@setBalancerBandwidth":
        fs.setBalancerBandwidth(Long.parseLong(a[1]));
        return 0;
      case "@report":
        for (DatanodeInfo datanode : fs.getDataNodeStats(DatanodeReportType.valueOf(a[1]))) {
          System.out.println(datanode.getDatanodeReport());
        }
        return 0;
      case "@pread": {
        byte[] bytes = new byte[Integer.parseInt(a[3])];
        try (FSDataInputStream stream = fs.open(path)) {
          stream.readFully(Long.parseLong(a[2]), bytes);
        }
        System.out.write(bytes);
        return 0;
      }
      default:
        throw new IllegalArgumentException(a[0]);
    }
  }

  static String unescape(String field) {
    StringBuilder text = new StringBuilder();
    for (int i = 0; i < field.length(); i++) {
      char c = field.charAt(i);
      if (c == '\\' && i + 1 < field.length()) {
        char next = field.charAt(++i);
        text.append(next == 't' ? '\t' : next == 'n' ? '\n' : next);
      } else {
        text.append(c);
      }
    }
    return text.toString();
  }
}
