package com.rewardservice.client;

import com.google.type.Money;
import java.math.BigDecimal;

/** Amounts in yuan, between {@link BigDecimal} and the messages of the service. */
public final class Yuan {
    private static final BigDecimal BEYOND = BigDecimal.TEN.pow(15);
    private static final int NANO_DIGITS = 9;

    /** Digits of an amount: more than any money needs, and few enough to keep arithmetic on hostile text cheap. */
    private static final int LONGEST = 40;

    private Yuan() {}

    /**
     * An amount in yuan, as in {@code Yuan.of("98.50")}.
     *
     * @throws IllegalArgumentException for text that is no number, and for more than nine decimals
     */
    public static Money of(String amount) {
        if (amount.length() > LONGEST) {
            throw new IllegalArgumentException("not an amount of yuan: too long");
        }
        try {
            return of(new BigDecimal(amount));
        } catch (NumberFormatException notANumber) {
            throw new IllegalArgumentException("not an amount of yuan: " + amount, notANumber);
        }
    }

    /**
     * An amount in yuan.
     *
     * @throws IllegalArgumentException for more than nine decimals, and for 10<sup>15</sup> yuan or more
     */
    public static Money of(BigDecimal amount) {
        if (amount.abs().compareTo(BEYOND) >= 0) {
            throw new IllegalArgumentException("not an amount of yuan: too much");
        }
        if (amount.stripTrailingZeros().scale() > NANO_DIGITS) {
            throw new IllegalArgumentException("more than nine decimals: " + amount.toEngineeringString());
        }
        BigDecimal units = new BigDecimal(amount.toBigInteger());
        return Money.newBuilder()
                .setCurrencyCode("CNY")
                .setUnits(units.longValueExact())
                .setNanos(amount.subtract(units).movePointRight(NANO_DIGITS).intValueExact())
                .build();
    }

    /** The amount in yuan that a message holds, as in {@code Yuan.amount(product.getPrice())}. */
    public static BigDecimal amount(Money money) {
        return BigDecimal.valueOf(money.getUnits()).add(BigDecimal.valueOf(money.getNanos(), NANO_DIGITS));
    }
}
