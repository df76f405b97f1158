package com.rewardservice.client;

/**
 * One field of a request that the server refused.
 *
 * @param field its path in the request, as in {@code recipient.phone.number}
 * @param description how to mend it
 */
public record FieldViolation(String field, String description) {}
