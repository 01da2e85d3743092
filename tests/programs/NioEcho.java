import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.StandardSocketOptions;
import java.nio.ByteBuffer;
import java.nio.channels.DatagramChannel;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.ServerSocketChannel;
import java.nio.channels.SocketChannel;
import java.util.Random;

/** Java's channels: `server PORT` echoes TCP and datagrams with a selector; `client HOST PORT` compares what comes. */
public class NioEcho {
    public static void main(String[] args) throws Exception {
        if (args[0].equals("server")) serve(Integer.parseInt(args[1]));
        else drive(args[1], Integer.parseInt(args[2]));
    }

    static void serve(int port) throws IOException {
        Selector selector = Selector.open();
        ServerSocketChannel listener = ServerSocketChannel.open();
        listener.bind(new InetSocketAddress(port)).configureBlocking(false);
        listener.register(selector, SelectionKey.OP_ACCEPT);
        DatagramChannel datagrams = DatagramChannel.open();
        datagrams.bind(new InetSocketAddress(port)).configureBlocking(false);
        datagrams.register(selector, SelectionKey.OP_READ);
        ByteBuffer packet = ByteBuffer.allocate(2000);
        while (true) {
            selector.select();
            for (var keys = selector.selectedKeys().iterator(); keys.hasNext(); ) {
                SelectionKey key = keys.next();
                keys.remove();
                if (key.isAcceptable()) {
                    SocketChannel one = listener.accept();
                    if (one == null) continue;
                    one.configureBlocking(false);
                    one.setOption(StandardSocketOptions.TCP_NODELAY, true);
                    one.register(selector, SelectionKey.OP_READ, ByteBuffer.allocateDirect(65536));
                } else if (key.channel() == datagrams) {
                    packet.clear();
                    var from = datagrams.receive(packet);
                    packet.flip();
                    if (from != null) datagrams.send(packet, from);
                } else {
                    echo(key);
                }
            }
        }
    }

    static void echo(SelectionKey key) throws IOException {
        SocketChannel one = (SocketChannel) key.channel();
        ByteBuffer held = (ByteBuffer) key.attachment();
        int n = one.read(held);
        held.flip();
        one.write(held);
        held.compact();
        if (n < 0 && held.position() == 0) {
            one.close();
            return;
        }
        int ops = held.position() > 0 ? SelectionKey.OP_WRITE : 0;
        if (n >= 0 && held.hasRemaining()) ops |= SelectionKey.OP_READ;
        key.interestOps(ops);
    }

    static void drive(String host, int port) throws Exception {
        for (int round = 0; round < 4; round++) {
            byte[] data = new byte[1 + round * 1300000];
            new Random(round).nextBytes(data);
            SocketChannel one = SocketChannel.open(new InetSocketAddress(host, port));
            Thread writer = new Thread(() -> {
                try {
                    ByteBuffer all = ByteBuffer.wrap(data);
                    while (all.hasRemaining()) one.write(all);
                    one.shutdownOutput();
                } catch (IOException e) {
                    throw new RuntimeException(e);
                }
            });
            writer.start();
            ByteBuffer back = ByteBuffer.allocate(data.length + 1);
            while (one.read(back) >= 0 && back.hasRemaining());
            writer.join();
            check(back.position() == data.length && ByteBuffer.wrap(data).equals(back.flip()), "echo " + round);
            one.close();
        }
        Selector selector = Selector.open();
        SocketChannel slow = SocketChannel.open();
        slow.configureBlocking(false);
        slow.register(selector, SelectionKey.OP_CONNECT);
        slow.connect(new InetSocketAddress(host, port));
        check(selector.select(5000) == 1 && slow.finishConnect(), "finishConnect");
        slow.close();
        try {
            SocketChannel.open(new InetSocketAddress(host, port + 1));
            check(false, "connected?");
        } catch (java.net.ConnectException e) {
            // As it should be.
        }
        DatagramChannel datagrams = DatagramChannel.open().connect(new InetSocketAddress(host, port));
        for (int i = 1; i < 100; i++) {
            byte[] data = new byte[i * 14];
            new Random(i).nextBytes(data);
            datagrams.write(ByteBuffer.wrap(data));
            ByteBuffer back = ByteBuffer.allocate(2000);
            datagrams.read(back);
            check(ByteBuffer.wrap(data).equals(back.flip()), "datagram " + i);
        }
        System.out.println("fine");
    }

    static void check(boolean fine, String what) {
        if (!fine) throw new IllegalStateException(what);
    }
}
