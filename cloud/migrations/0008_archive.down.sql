DROP FUNCTION archive_is_complete(date);
DROP TABLE archive_range;
DROP TABLE archive_manifest;
DROP TABLE archive_day;
