import static org.junit.platform.engine.discovery.ClassNameFilter.includeClassNamePatterns;
import static org.junit.platform.engine.discovery.DiscoverySelectors.selectPackage;

import java.io.Reader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ConcurrentHashMap;
import org.junit.platform.engine.FilterResult;
import org.junit.platform.engine.TestExecutionResult;
import org.junit.platform.launcher.PostDiscoveryFilter;
import org.junit.platform.launcher.TestExecutionListener;
import org.junit.platform.launcher.TestIdentifier;
import org.junit.platform.launcher.core.LauncherDiscoveryRequestBuilder;
import org.junit.platform.launcher.core.LauncherFactory;

/**
 * Runs the kit's tests on JUnit's launcher: a line per test, the count, and an exit status that means something.
 *
 * <p>The kit's own main exits with 0 when tests fail and does not mention skipped ones. Started in source-file mode:
 * {@code java -cp 'lib/*' Kit.java kit.properties [CN_C:02]}; the second argument keeps tests whose name begins so.
 *
 * <p>Exit status: 0 when 65 passed and 2 were skipped (or, of a chosen few, none failed), 1 otherwise.
 */
public final class Kit implements TestExecutionListener {
    private static final int PASSED = 65;
    private static final int SKIPPED = 2;

    private final Map<String, Long> started = new ConcurrentHashMap<>();
    private final List<String> failed = new ArrayList<>();
    private int passed;
    private int skipped;

    private Kit() {
    }

    public static void main(String[] arguments) throws Exception {
        Properties settings = new Properties();
        try (Reader file = Files.newBufferedReader(Path.of(arguments[0]))) {
            settings.load(file);
        }
        settings.forEach((key, value) -> System.setProperty((String) key, (String) value));
        String wanted = arguments.length > 1 ? arguments[1] : "";
        Kit kit = new Kit();
        long begun = System.nanoTime();
        kit.run(wanted);
        // The kit leaves threads behind that would keep the process alive.
        System.exit(kit.report(wanted.isEmpty(), begun) ? 0 : 1);
    }

    private void run(String wanted) {
        PostDiscoveryFilter chosen = test -> FilterResult.includedIf(
                !test.isTest() || test.getDisplayName().startsWith(wanted));
        LauncherFactory.create().execute(
                LauncherDiscoveryRequestBuilder.request()
                        .selectors(selectPackage("org.eclipse.dataspacetck.dsp.verification"))
                        .filters(includeClassNamePatterns(".*Test"), chosen)
                        .build(),
                this);
    }

    private boolean report(boolean all, long begun) {
        System.out.printf(Locale.ROOT, "%n%d passed, %d failed, %d skipped in %.1f s%n", passed, failed.size(), skipped,
                seconds(begun));
        failed.forEach(name -> System.out.println("failed: " + name));
        if (all && (passed != PASSED || skipped != SKIPPED)) {
            System.out.printf("expected %d passed and %d skipped%n", PASSED, SKIPPED);
            return false;
        }
        return failed.isEmpty() && passed > 0;
    }

    @Override
    public void executionStarted(TestIdentifier test) {
        started.put(test.getUniqueId(), System.nanoTime());
    }

    @Override
    public void executionSkipped(TestIdentifier test, String reason) {
        if (test.isTest()) {
            skipped++;
            line("skipped", 0, test.getDisplayName());
        }
    }

    @Override
    public void executionFinished(TestIdentifier test, TestExecutionResult result) {
        boolean good = result.getStatus() == TestExecutionResult.Status.SUCCESSFUL;
        if (!test.isTest() && good) {
            return;
        }
        line(good ? "ok" : "FAILED", seconds(started.get(test.getUniqueId())), test.getDisplayName());
        if (good) {
            passed++;
            return;
        }
        // A class whose set-up fails takes its tests with it; it counts as a failure of its own.
        failed.add(test.getDisplayName());
        result.getThrowable().ifPresent(cause -> cause.toString().lines().limit(6)
                .forEach(text -> System.out.println("          " + text)));
    }

    private static void line(String word, double seconds, String name) {
        System.out.printf(Locale.ROOT, "%-7s %6.2f s  %s%n", word, seconds, name);
    }

    private static double seconds(long since) {
        return (System.nanoTime() - since) / 1e9;
    }
}
