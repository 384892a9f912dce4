DROP FUNCTION true_time(integer, bigint, smallint, timestamptz, timestamptz);
DROP TABLE clock_correction;
