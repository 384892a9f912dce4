/// A database whose clock is another one than its machine's.
package enum DatabaseClock {
    /// For sessions that begin afterwards. What this program asks for the time is then found before PostgreSQL's own.
    ///
    /// - Parameter time: microseconds since 1970.
    package static func set(to time: Int64) -> String {
        """
        CREATE OR REPLACE FUNCTION public.statement_timestamp() RETURNS timestamptz LANGUAGE sql STABLE AS $$
            SELECT timestamptz 'epoch' + \(time) * interval '1 microsecond'
        $$;
        DO $$ BEGIN
            EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_catalog', current_database());
        END $$
        """
    }
}
