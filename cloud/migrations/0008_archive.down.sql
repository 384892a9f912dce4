DROP FUNCTION archive_is_complete(date);
DROP FUNCTION archive_compare(date, bigint, bigint);
DROP FUNCTION archive_has(date, integer, bigint);
DROP TABLE archive_range;
DROP TABLE archive_manifest;
DROP TABLE archive_day;
