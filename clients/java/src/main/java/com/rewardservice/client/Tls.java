package com.rewardservice.client;

import io.grpc.ChannelCredentials;
import io.grpc.TlsChannelCredentials;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.file.Path;

/**
 * How to speak TLS.
 *
 * @param caFile the authorities to trust (PEM); null: those of the Java runtime
 * @param certificateFile the client's own certificate for mutual TLS (PEM), or null
 * @param keyFile the key to it (PEM, PKCS #8: "BEGIN PRIVATE KEY"), or null
 * @param serverName the name in the server's certificate where it differs from the target, or null
 */
public record Tls(Path caFile, Path certificateFile, Path keyFile, String serverName) {
    /** Trusts the authorities of the Java runtime. */
    public static final Tls DEFAULT = new Tls(null, null, null, null);

    /** Refuses a certificate without its key, and a key without its certificate. */
    public Tls {
        if ((certificateFile == null) != (keyFile == null)) {
            throw new IllegalArgumentException("a client's certificate and its key go together");
        }
    }

    /** Trusts the authorities in a file (PEM). */
    public static Tls trusting(Path caFile) {
        return new Tls(caFile, null, null, null);
    }

    /** The same with a certificate of the client's own, for mutual TLS. */
    public Tls as(Path certificateFile, Path keyFile) {
        return new Tls(caFile, certificateFile, keyFile, serverName);
    }

    /** The same for a server whose certificate has another name than the target. */
    public Tls expecting(String serverName) {
        return new Tls(caFile, certificateFile, keyFile, serverName);
    }

    /** Whether the client shows a certificate of its own. */
    boolean isCertified() {
        return certificateFile != null;
    }

    /** Reads the files. */
    ChannelCredentials credentials() {
        TlsChannelCredentials.Builder credentials = TlsChannelCredentials.newBuilder();
        try {
            if (caFile != null) {
                credentials.trustManager(caFile.toFile());
            }
            if (certificateFile != null) {
                credentials.keyManager(certificateFile.toFile(), keyFile.toFile());
            }
        } catch (IOException unreadable) {
            throw new UncheckedIOException(unreadable);
        }
        return credentials.build();
    }
}
