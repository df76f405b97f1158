package com.rewardservice.client;

import java.time.Duration;

/** Durations between this package and those of others. */
final class Durations {
    /** A hundred years: further than any wait goes, and far from where sums with it overflow. */
    private static final Duration LONGEST = Duration.ofDays(36_500);

    private Durations() {}

    static boolean isPositive(Duration duration) {
        return !duration.isNegative() && !duration.isZero();
    }

    /** Nanoseconds, those of a hundred years at most and those of none at least. */
    static long nanos(Duration duration) {
        return duration.isNegative() ? 0 : (duration.compareTo(LONGEST) > 0 ? LONGEST : duration).toNanos();
    }

    static Duration of(com.google.protobuf.Duration duration) {
        // A message may hold any numbers, also those that java.time can't add up.
        long seconds = Math.max(0, Math.min(LONGEST.toSeconds(), duration.getSeconds()));
        return Duration.ofSeconds(seconds, Math.max(0, duration.getNanos()));
    }
}
