package com.rewardservice.client;

import io.grpc.Channel;
import io.grpc.ClientInterceptors;
import io.grpc.ConnectivityState;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.stub.MetadataUtils;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;

/** The channel of a client: its settings, who is calling, and when it has to connect anew. */
final class Connection {
    private static final String KEY_VARIABLE = "REWARDSERVICE_KEY";
    private static final String DEV_KEY = "dev-key";

    /** Bytes of an answer. The largest one is a page of 1,000 updates with all their cards. */
    private static final int MAX_RECEIVE = 64 * 1024 * 1024;

    private static final long RENEWAL_NANOS = TimeUnit.MILLISECONDS.toNanos(200);
    private static final Metadata.Key<String> AUTHORIZATION =
            Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);

    private final ManagedChannel managed;
    private final Channel channel;
    private long renewedAt = System.nanoTime() - RENEWAL_NANOS;

    Connection(String target, String key, Tls tls, Consumer<ManagedChannelBuilder<?>> configure) {
        Metadata headers = new Metadata();
        headers.put(AUTHORIZATION, "Bearer " + usableKey(target, key));
        ManagedChannelBuilder<?> builder = Grpc.newChannelBuilder(
                        target, tls == null ? InsecureChannelCredentials.create() : tls.credentials())
                // A pulled cable or a forgetful firewall is noticed after 20 + 10 s instead of hours.
                .keepAliveTime(20, TimeUnit.SECONDS)
                .keepAliveTimeout(10, TimeUnit.SECONDS)
                .keepAliveWithoutCalls(true)
                .maxInboundMessageSize(MAX_RECEIVE)
                .userAgent("reward-service-java/" + version());
        if (tls != null && tls.serverName() != null) {
            builder.overrideAuthority(tls.serverName());
        }
        configure.accept(builder);
        managed = builder.build();
        channel = ClientInterceptors.intercept(managed, MetadataUtils.newAttachHeadersInterceptor(headers));
    }

    /** Adds the key to every call that is made over it. */
    Channel channel() {
        return channel;
    }

    /**
     * Ends a pause that gRPC has put between attempts to connect, before a call of ours that has waited already. Its
     * own pauses can't be set and grow to two minutes: a server that is back would wait for us. (Both methods of gRPC's
     * that this needs are called experimental, and have been as they are since 2018.)
     */
    synchronized void endPause() {
        long now = System.nanoTime();
        if (managed.getState(false) == ConnectivityState.TRANSIENT_FAILURE && now - renewedAt >= RENEWAL_NANOS) {
            renewedAt = now;
            managed.enterIdle();
        }
    }

    /** Leaves a connection that went silent: calls from now on get another one, calls under way keep theirs. */
    synchronized void leave() {
        managed.enterIdle();
    }

    void close() {
        managed.shutdownNow();
        try {
            managed.awaitTermination(5, TimeUnit.SECONDS);
        } catch (InterruptedException stop) {
            Thread.currentThread().interrupt();
        }
    }

    /** The key to use: the given one, else the environment's, else the development key on this machine. */
    static String usableKey(String target, String key) {
        String fallback = isLoopback(target) ? DEV_KEY : "";
        String chosen = key != null ? key : System.getenv().getOrDefault(KEY_VARIABLE, fallback);
        if (chosen.isEmpty()) {
            throw new IllegalArgumentException("no API key for " + target + ": give one or set " + KEY_VARIABLE);
        }
        // Anything else is refused deep inside gRPC, or sent as something else.
        if (!chosen.chars().allMatch(character -> '!' <= character && character <= '~')) {
            throw new IllegalArgumentException("an API key consists of printable ASCII characters without spaces");
        }
        return chosen;
    }

    /** Whether a gRPC target never leaves this machine, as far as its name tells. */
    static boolean isLoopback(String target) {
        if (target.startsWith("unix:") || target.startsWith("unix-abstract:")) {
            return true;
        }
        String address = target.replaceFirst("^(dns|ipv4|ipv6):", "");
        address = address.substring(address.lastIndexOf('/') + 1);
        if (address.startsWith("[") || address.indexOf(':') != address.lastIndexOf(':')) {
            String host = address.startsWith("[") ? address.substring(1).split("]", 2)[0] : address;
            try {
                // With a colon in it, it is no name that could be looked up.
                return host.contains(":") && InetAddress.getByName(host).isLoopbackAddress();
            } catch (UnknownHostException noAddress) {
                return false;
            }
        }
        String host = address.split(":", 2)[0];
        return host.equals("localhost") || host.matches("127(\\.\\d{1,3}){3}");
    }

    private static String version() {
        String version = Connection.class.getPackage().getImplementationVersion();
        return version == null ? "unknown" : version;
    }
}
