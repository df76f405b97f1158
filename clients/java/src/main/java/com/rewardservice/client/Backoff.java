package com.rewardservice.client;

import java.time.Duration;
import java.util.concurrent.ThreadLocalRandom;

/**
 * How long to wait before trying again: exponential back-off with full jitter, so that clients which were cut off
 * together don't come back together.
 *
 * @param initial the longest first pause
 * @param maximum what the pauses grow to
 * @param attempts how often a unary call is made in all; streams go on
 */
public record Backoff(Duration initial, Duration maximum, int attempts) {
    /** Pauses of up to 0.5 s that grow to 10 s, and at most 30 attempts. */
    public static final Backoff DEFAULT = new Backoff(Duration.ofMillis(500), Duration.ofSeconds(10), 30);

    private static final int MOST_DOUBLINGS = 30;

    /** Refuses pauses that aren't positive. */
    public Backoff {
        if (!Durations.isPositive(initial) || maximum.compareTo(initial) < 0 || attempts < 1) {
            throw new IllegalArgumentException("a back-off needs 0 < initial <= maximum and at least one attempt");
        }
    }

    /** The pause after so many failures in a row (from 1), never less than what the server asked for. */
    Duration delay(int failures, Duration atLeast) {
        double grown = Durations.nanos(initial) * Math.pow(2, Math.min(failures - 1, MOST_DOUBLINGS));
        double span = Math.min(Durations.nanos(maximum), grown);
        return atLeast.plusNanos((long) (span * ThreadLocalRandom.current().nextDouble()));
    }
}
