package com.rewardservice.client;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ClientInterceptors;
import io.grpc.ConnectivityState;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.stub.MetadataUtils;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.util.concurrent.TimeUnit;
import java.util.function.Consumer;
import java.util.function.Supplier;

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
    private final Supplier<String> key;
    private long renewedAt = System.nanoTime() - RENEWAL_NANOS;

    /** With a source of keys that brings a usable one each time, or null for none. */
    Connection(String target, Supplier<String> key, Tls tls, Consumer<ManagedChannelBuilder<?>> configure) {
        this.key = key;
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
        channel = ClientInterceptors.intercept(managed, new ClientInterceptor() {
            @Override
            public <Q, R> ClientCall<Q, R> interceptCall(
                    MethodDescriptor<Q, R> method, CallOptions options, Channel next) {
                return signed(next, key.get()).newCall(method, options);
            }
        });
    }

    /** Adds the key to every call that is made over it. */
    Channel channel() {
        return channel;
    }

    /** Adds a key that was brought before to every call; null for none. */
    Channel channel(String key) {
        return signed(managed, key);
    }

    /** The key of the next call, which may be another one each time; null for none. Throws what the source throws. */
    String key() {
        return key.get();
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

    /**
     * The key to use: the given one, else the environment's, else none (null) beside a certificate of the client's own,
     * else the development key on this machine.
     */
    static String usableKey(String target, String key, boolean isCertified) {
        String chosen = key != null ? key : System.getenv().getOrDefault(KEY_VARIABLE, "");
        if (chosen.isEmpty() && key == null) {
            if (isCertified) {
                return null;
            }
            chosen = isLoopback(target) ? DEV_KEY : "";
        }
        if (chosen.isEmpty()) {
            throw new IllegalArgumentException("no API key for " + target + ": give one or set " + KEY_VARIABLE);
        }
        return checked(chosen);
    }

    /** The key, if it is one. */
    static String checked(String key) {
        // Anything else is refused deep inside gRPC, or sent as something else.
        if (key == null || key.isEmpty() || !key.chars().allMatch(one -> '!' <= one && one <= '~')) {
            throw new IllegalArgumentException("an API key consists of printable ASCII characters without spaces");
        }
        return key;
    }

    private static Channel signed(Channel channel, String key) {
        if (key == null) {
            return channel;
        }
        Metadata headers = new Metadata();
        headers.put(AUTHORIZATION, "Bearer " + key);
        return ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(headers));
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
