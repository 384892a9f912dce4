DROP TABLE database_identity;
ALTER TABLE event DROP COLUMN body_version;
DROP TABLE feature_flag;
DROP FUNCTION feature_flag_changed();
